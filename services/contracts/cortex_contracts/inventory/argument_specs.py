"""The roles' meta/argument_specs.yml and defaults/main.yml, from the schema.

Owns: the translation of a field into Ansible's option. Does not own: the schema (fleet.py,
deployment.py). Called by: a developer who
changed a field, as `python -m cortex_contracts.inventory.argument_specs roles`, and the test that compares the result
with the committed files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from cortex_contracts.inventory.deployment import Deployment
from cortex_contracts.inventory.fleet import Model
from cortex_contracts.inventory.roles import ROLES, Role
from cortex_contracts.inventory.strict import Strict

Schema = dict[str, Any]

ANSIBLE_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "object": "dict",
    "array": "list",
}
CATALOGUE = "The catalogue: every model of the fleet. The same for all hosts, so in group_vars/all"
HEADER = (
    "# Written from the schema by `python -m cortex_contracts.inventory.argument_specs roles`; change the schema.\n"
)


def options(shape: type[Strict], prefix: str) -> dict[str, Any]:
    """Ansible's options for the fields of a shape."""
    schema = shape.model_json_schema()
    return _options(schema, prefix, schema.get("$defs", {}))


def argument_specs(role: Role) -> dict[str, Any]:
    """The content of a role's meta/argument_specs.yml."""
    described = options(role.shape, role.prefix)
    if role.shape is Deployment:
        described["cortex_models"] = {
            "description": CATALOGUE,
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": options(Model, ""),
        }
    return {"argument_specs": {"main": {"short_description": role.title, "options": described}}}


def defaults(role: Role) -> dict[str, Any]:
    """The content of a role's defaults/main.yml: every option, so that templates meet no undefined variable."""
    described = argument_specs(role)["argument_specs"]["main"]["options"]
    return {name: option.get("default") for name, option in described.items()}


def files() -> dict[str, str]:
    """Every generated file's text, by its path below the roles' folder."""
    import yaml  # of ansible-core, on the developer's and the operator's machines only

    content = {f"{role.name}/meta/argument_specs.yml": argument_specs(role) for role in ROLES}
    content |= {f"{role.name}/defaults/main.yml": defaults(role) for role in ROLES}
    return {
        path: f"---\n{HEADER}{yaml.safe_dump(value, sort_keys=False, width=120, allow_unicode=True)}"
        for path, value in content.items()
    }


def _options(schema: Schema, prefix: str, shapes: Schema) -> dict[str, Any]:
    required = schema.get("required", [])
    return {f"{prefix}{name}": _option(name in required, field, shapes) for name, field in schema["properties"].items()}


def _option(required: bool, field: Schema, shapes: Schema) -> dict[str, Any]:
    option = {"description": field["description"], **_type(field, shapes)}
    if required:
        option["required"] = True
    elif "$ref" in field:
        option["default"] = {}  # its keys have their own
    elif field.get("default") is not None:
        option["default"] = field["default"]
    return option


def _type(field: Schema, shapes: Schema) -> dict[str, Any]:
    if (shape := _shape(field, shapes)) is not None:
        return {"type": "dict", "options": _options(shape, "", shapes)}
    if field.get("type") == "array" and (shape := _shape(field["items"], shapes)) is not None:
        return {"type": "list", "elements": "dict", "options": _options(shape, "", shapes)}
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    names = {kind["type"] for kind in kinds}
    if len(names) > 1:
        return {"type": "raw"}
    name = ANSIBLE_TYPES[names.pop()]
    words = kinds[0].get("enum", [kinds[0]["const"]] if "const" in kinds[0] else [])
    if len(kinds) == 1 and words:
        return {"type": name, "choices": words}
    if name == "list":
        items = kinds[0]["items"]
        return {"type": name, "elements": ANSIBLE_TYPES[items["type"]]} | (
            {"choices": items["enum"]} if "enum" in items else {}
        )
    return {"type": name, "no_log": True} if kinds[0].get("writeOnly") else {"type": name}


def _shape(field: Schema, shapes: Schema) -> Schema | None:
    """The schema that a field refers to, where it is a shape of its own, or that or nothing."""
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    return shapes[kinds[0]["$ref"].rpartition("/")[2]] if len(kinds) == 1 and "$ref" in kinds[0] else None


if __name__ == "__main__":
    for path, text in files().items():
        target = Path(sys.argv[1]) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
