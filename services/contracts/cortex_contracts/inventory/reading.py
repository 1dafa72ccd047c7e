"""From raw inventory values to the schema's: each fault becomes a line, and a value stands in for what is faulty.

Owns: the wording of a fault in one value, and the suggestion for a misspelt name. Does not own: which host or entry the
value belongs to, nor relations between values. A stand-in lets relations.py still judge everything else, so that one
run reports all problems. Called by: problems.py.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cortex_contracts.inventory.strict import Strict
from cortex_contracts.inventory.variables import unreadable

Shape = TypeVar("Shape", bound=Strict)

# A fault in one of these never shows the value: environments hold tokens, and a name may be a key in the wrong place.
SECRET = frozenset({"environment", "key", "admin_key", "hub_token", "name"})
SHOWN_CHARACTERS = 80
# What a reader of YAML calls it, by pydantic's name of the fault; pydantic's own words stand for the others.
WORDS = {
    "bool_parsing": "should be true or false",
    "bool_type": "should be true or false",
    "dict_type": "should be names and values",
    "extra_forbidden": "no such key",
    "float_parsing": "should be a number",
    "float_type": "should be a number",
    "int_from_float": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_type": "should be a whole number",
    "model_type": "should be keys and values",
    "string_too_short": "should not be empty",
    "string_type": "should be text",
    "tuple_type": "should be a list",
}


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a line about an unknown name: the known one that it was perhaps meant to be."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def take(shape: type[Shape], values: Mapping[str, Any], stand_ins: Mapping[str, Any]) -> tuple[Shape, list[str]]:
    """The values as `shape`, and a line per fault that begins with the field's name.

    What is faulty takes its default, or its stand-in where the field has none. Unknown keys are left out silently: only
    the caller knows by what name the inventory calls them.
    """
    known = {key: value for key, value in values.items() if key in shape.model_fields}
    reasons = {key: [*unreadable(key, value)] for key, value in known.items()}
    lines = [line for found in reasons.values() for line in found]
    readable = {key: value for key, value in known.items() if not reasons[key]}
    required = {key: stand_ins[key] for key in known.keys() - readable.keys() if key in stand_ins}
    try:
        return shape.model_validate({**required, **readable}), lines
    except ValidationError as error:
        faults = error.errors()
    lines += dict.fromkeys(_line(shape, fault) for fault in faults)
    faulty = {fault["loc"][0] for fault in faults}
    sound = {key: value for key, value in readable.items() if key not in faulty}
    return shape.model_validate({**stand_ins, **sound}), lines


def _line(shape: type[Strict], fault: ErrorDetails) -> str:
    name, *inner = (str(part) for part in fault["loc"] if part != "[key]")
    field, shown = shape.model_fields[name], _shown(name, fault["input"])
    if fault["type"] == "missing":
        return f"{'.'.join((name, *inner))}: is missing" + ("" if inner else f" ({field.description})")
    if field.examples and fault["type"] != "value_error":
        choices = " or ".join(repr(example) for example in field.examples)
        return f"{name}: should be such as {choices}, is {shown}"
    return f"{'.'.join((name, *inner))}: {_words(fault)}, is {shown}{_meant(fault)}"


def _words(fault: ErrorDetails) -> str:
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return WORDS.get(fault["type"], f"{message[0].lower()}{message[1:]}")


def _meant(fault: ErrorDetails) -> str:
    """The choice that a misspelt one was perhaps meant to be."""
    if fault["type"] != "literal_error":
        return ""
    return suggestion(str(fault["input"]), re.findall(r"'([^']+)'", fault["ctx"]["expected"]))


def _shown(name: str, value: Any) -> str:
    if name in SECRET:
        return f"a {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
