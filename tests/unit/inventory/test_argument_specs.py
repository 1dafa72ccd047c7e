"""The roles' argument_specs and defaults are the schema's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from cortex_contracts.inventory.argument_specs import files
from cortex_contracts.inventory.clients import Allowance, ApiKey
from cortex_contracts.inventory.fleet import Model
from cortex_contracts.inventory.reference import page
from cortex_contracts.inventory.roles import ROLES as DECLARED
from cortex_contracts.inventory.roles import Role

ROLES = Path(__file__).parents[3] / "roles"


def options(role: str) -> dict[str, Any]:
    content = yaml.safe_load((ROLES / role / "meta/argument_specs.yml").read_text())
    return dict(content["argument_specs"]["main"]["options"])


def written(default: Any) -> Any:
    """A default as YAML writes it; keys of an inner shape have their own."""
    if isinstance(default, BaseModel):
        return default.model_dump(exclude_defaults=True)
    return to_jsonable_python(default) if isinstance(default, tuple) else default


@pytest.mark.parametrize("path", files())
def test_a_generated_file_is_as_the_schema_says(path: str) -> None:
    """After a change of the schema: python -m cortex_contracts.inventory.argument_specs roles"""
    assert (ROLES / path).read_text() == files()[path]


@pytest.mark.parametrize("role", DECLARED, ids=[role.name for role in DECLARED])
def test_every_field_is_an_option_and_nothing_else_is(role: Role) -> None:
    """Read from the committed file, not from the generator: names, defaults, required, descriptions."""
    described = options(role.name)
    models = described.pop("cortex_models", None)
    assert (models is not None) == (role.name == "cortex_common")
    assert described.keys() == {f"{role.prefix}{name}" for name in role.shape.model_fields}
    for name, field in role.shape.model_fields.items():
        option = described[f"{role.prefix}{name}"]
        assert option["description"] == field.description
        assert option.get("default") == written(field.default)
        assert option.get("required", False) == field.is_required()


def test_the_catalogue_s_entries_are_described_key_by_key() -> None:
    """Ansible's own validation knows what an entry may hold."""
    entry = options("cortex_common")["cortex_models"]["options"]
    assert entry.keys() == Model.model_fields.keys()
    assert {name for name in entry if entry[name].get("required")} == {"id", "source", "vram_mb"}
    assert entry["harness"]["choices"] == ["torch", "vllm"]
    assert entry["capabilities"]["elements"] == "str"
    assert entry["capabilities"]["choices"] == ["chat", "completion", "tools", "images"]


def test_keys_of_inner_shapes_are_described_and_secrets_are_never_logged() -> None:
    """Ansible shows no value of an option with no_log."""
    described = options("gateway")
    entry = described["gateway_api_keys"]["options"]
    assert entry.keys() == ApiKey.model_fields.keys()
    assert {name for name in entry if entry[name].get("required")} == {"name", "key"}
    assert [name for name in entry if entry[name].get("no_log")] == ["key"]
    assert described["gateway_admin_key"]["no_log"] is True
    assert described["gateway_anonymous_allowance"]["options"].keys() == Allowance.model_fields.keys()


@pytest.mark.parametrize(
    ("role", "name", "kind"),
    [
        ("neuron", "neuron_port", "int"),
        ("neuron", "neuron_devices", "raw"),
        ("neuron", "neuron_drained", "bool"),
        ("neuron", "neuron_environment", "dict"),
        ("neuron", "neuron_cpu_threads", "int"),
        ("gateway", "gateway_idle_timeout_s", "float"),
        ("gateway", "gateway_eviction_strategy", "str"),
        ("gateway", "gateway_api_keys", "list"),
        ("gateway", "gateway_admin_key", "str"),
        ("gateway", "gateway_anonymous_allowance", "dict"),
        ("cortex_common", "cortex_models", "list"),
    ],
)
def test_a_type_is_that_of_the_schema(role: str, name: str, kind: str) -> None:
    """What takes a word or a list is raw; none as a default is no default."""
    assert options(role)[name]["type"] == kind


@pytest.mark.parametrize("role", DECLARED, ids=[role.name for role in DECLARED])
def test_every_field_has_a_default_in_the_role(role: Role) -> None:
    """Templates meet no undefined variable, and a role alone behaves as the schema says."""
    defaults = yaml.safe_load((ROLES / role.name / "defaults/main.yml").read_text())
    defaults.pop("cortex_models", None)
    assert defaults == {
        f"{role.prefix}{name}": written(field.default) for name, field in role.shape.model_fields.items()
    }


def test_the_documentation_s_tables_are_as_the_schema_says() -> None:
    """After a change of the schema: python -m cortex_contracts.inventory.reference docs/inventory.md"""
    text = (ROLES.parent / "docs/inventory.md").read_text()
    assert text == page(text)
    for role in DECLARED:
        assert not [name for name in role.shape.model_fields if f"| `{role.prefix}{name}` |" not in text]
