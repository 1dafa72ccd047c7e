"""oneOf: no grammar can count alternatives, but where none can hold beside another it is anyOf.

Owns: the proof of that, pair by pair: other types or values, else an allOf of both that llguidance finds unsatisfiable.
Called by: reading.
"""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

from cortex_neuron.text.judgement import judged
from cortex_neuron.text.schemas.refusal import Refused
from cortex_neuron.text.schemas.walk import Shape, beside, changed

# What telling all alternatives apart may cost, as if it were characters for llguidance to read: it reads so many in a
# second. A pair costs a few at least, and some thousands where llguidance is asked.
_DEAREST_PROOF = 5_000_000
_LOOK, _QUESTION = 50, 10_000
_WHOLE = "whole"  # where the client's schema stands in the one that asks about a pair
_LOCAL = "#/"


def as_any_of(root: Shape) -> Shape:
    """The schema with anyOf for each oneOf. Raises Refused where an answer could be two alternatives at once.

    Schemas within that have an $id, from which references go elsewhere, are left to llguidance: it refuses more.
    """
    if "oneOf" not in json.dumps(root) or any('"$id"' in json.dumps(root[key]) for key in root if key != "$id"):
        return root
    proofs = _Proofs(root)
    found: Shape = changed(root, proofs.as_any_of)
    return found


class _Proofs:
    """Those of one schema."""

    def __init__(self, root: Shape) -> None:
        self._root = root
        whole = {key: each for key, each in root.items() if key not in ("$id", "$schema")}
        self._around: Shape = {key: root[key] for key in ("$id", "$schema") if key in root}
        self._around[_WHOLE] = changed(whole, _moved)
        self._left = _DEAREST_PROOF

    def as_any_of(self, shape: Shape) -> Shape:
        options = shape.get("oneOf")
        if not isinstance(options, list):
            return shape
        for (i, one), (k, other) in combinations(enumerate(options), 2):
            self._spend(_LOOK)
            if not self._plainly_apart(one, other) and not self._proven_apart(shape, one, other):
                raise Refused(
                    f"oneOf: alternatives {i} and {k} are not known to exclude each other; give each another const of "
                    "a required property, or say anyOf"
                )
        if "anyOf" in shape:
            rest = {key: each for key, each in shape.items() if key != "oneOf"}
            return beside(rest, {"anyOf": options})
        return {("anyOf" if key == "oneOf" else key): each for key, each in shape.items()}

    def _plainly_apart(self, one: Any, other: Any) -> bool:
        """Other values, another type, or objects with other values of a required property: most unions."""
        one, other = self._target(one), self._target(other)
        if _differ(one, other):
            return True
        required = one.get("required")
        if one.get("type") != "object" or other.get("type") != "object" or not isinstance(required, list):
            return False
        return any(_differ(_property(one, key), _property(other, key)) for key in required if isinstance(key, str))

    def _target(self, option: Any) -> Shape:
        """Where a $ref leads, and what is no schema to none in particular."""
        reference = option.get("$ref") if isinstance(option, dict) else None
        if isinstance(reference, str) and reference.startswith(_LOCAL):
            option = self._root
            for name in reference.removeprefix(_LOCAL).split("/"):
                option = option.get(name) if isinstance(option, dict) else None
        return option if isinstance(option, dict) else {}

    def _proven_apart(self, shape: Shape, one: Any, other: Any) -> bool:
        both = {key: each for key, each in shape.items() if key not in ("oneOf", "$defs", "definitions")}
        both = beside(beside(both, one), other)
        asked = json.dumps({**changed(both, _moved), **self._around, "x-guidance": {"coerce_one_of": True}})
        self._spend(max(len(asked), _QUESTION))
        reason = judged(f"start: %json {asked}")
        return reason is not None and reason.startswith("Unsatisfiable schema")

    def _spend(self, cost: int) -> None:
        self._left -= cost
        if self._left < 0:
            raise Refused("oneOf: too many or too large alternatives to see whether they exclude each other")


def _moved(shape: Shape) -> Shape:
    """References from the root, to where that stands now."""
    reference = shape.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith(_LOCAL)):
        return {**shape, "$ref": f"#/{_WHOLE}{reference[1:]}"}
    return shape


def _differ(one: Shape, other: Shape) -> bool:
    """Whether no value can be both, as their types or values say at once."""
    types = (one.get("type"), other.get("type"))
    if all(isinstance(each, str) for each in types) and types[0] != types[1]:
        return set(types) != {"integer", "number"}
    values, others = _values(one), _values(other)
    return values is not None and others is not None and not any(each in others for each in values)


def _values(shape: Shape) -> list[Any] | None:
    """All that it can be, if that is known and simple. In Python 1 is True: such are left to llguidance."""
    values = [shape["const"]] if "const" in shape else shape.get("enum")
    if isinstance(values, list) and all(isinstance(each, str | int | float) for each in values):
        return values
    return None


def _property(shape: Shape, key: str) -> Shape:
    properties = shape.get("properties")
    found = properties.get(key) if isinstance(properties, dict) else None
    return found if isinstance(found, dict) else {}
