"""A client's JSON Schema, said so that llguidance reads it as draft 2020-12 does.

Owns: what llguidance would take and keep to only in part: that is said otherwise, or refused by its keyword. Does not
own: what llguidance refuses itself (judgement). Called by: constraint.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, TypeGuard

from cortex_neuron.text.schemas import one_of
from cortex_neuron.text.schemas.dates import PATTERNS
from cortex_neuron.text.schemas.patterns import translated
from cortex_neuron.text.schemas.refusal import Refused
from cortex_neuron.text.schemas.walk import Shape, beside, changed


def read(schema: Shape) -> Shape:
    """The same answers. Raises Refused."""
    try:
        return _read(json.dumps(schema))
    except RecursionError as error:
        raise Refused("it is nested too deep") from error


@lru_cache(maxsize=64)
def _read(text: str) -> Shape:
    """Agents send the same schemas with every request."""
    told_apart: Shape = one_of.as_any_of(changed(json.loads(text), _said))
    return told_apart


def _said(shape: Shape) -> Shape:
    _counted(shape)
    _bounded(shape, 1, "Minimum", "Maximum")
    _bounded(shape, -1, "Maximum", "Minimum")
    if isinstance(pattern := shape.get("pattern"), str):
        shape = {**shape, "pattern": translated(pattern)}
    if isinstance(keyed := shape.get("patternProperties"), dict):
        shape = {**shape, "patternProperties": {translated(key): each for key, each in keyed.items()}}
    form = shape.get("format")
    if isinstance(form, str) and form in PATTERNS:
        more = {"pattern": PATTERNS[form]}
        shape = beside(shape, more) if "pattern" in shape else {**shape, **more}
    return shape


def _counted(shape: Shape) -> None:
    """A key that `properties` and `required` do not name can come twice, and counts once."""
    least, required = shape.get("minProperties"), shape.get("required")
    named = len(required) if isinstance(required, list) else 0
    if isinstance(least, int) and least > named + 1:
        raise Refused(f"minProperties: at most one more than there are in `required` ({named})")


def _bounded(shape: Shape, sign: int, near: str, far: str) -> None:
    """Of numbers between 1, excluded, and 1.5 llguidance 1.9 lets the 1 through; so, too, between 0 and -0.5."""
    exclusive = shape.get(f"exclusive{near}")
    excluded = shape.get(near.lower()) if exclusive is True else exclusive  # as draft 4 has it
    if not _is_number(excluded) or excluded % 1 != 0 or sign * excluded < 0 or shape.get("type") == "integer":
        return
    for keyword in (far.lower(), f"exclusive{far}"):
        other = shape.get(keyword)
        if _is_number(other) and 0 < sign * (other - excluded) < 1:
            raise Refused(f"exclusive{near}: {excluded} cannot be excluded with {keyword} {other} less than 1 away")


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
