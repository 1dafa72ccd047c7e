"""A JSON Schema with each of its schemas changed. Called by: reading, one_of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Shape = dict[str, Any]
_OF_NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_OF_VALUES = frozenset({"const", "enum", "default", "examples", "required"})


def changed(shape: Any, change: Callable[[Shape], Shape]) -> Any:
    """The innermost first. What stands under a keyword that nobody knows may be a schema, for a $ref can say so."""
    if isinstance(shape, list):
        return [changed(each, change) for each in shape]
    if not isinstance(shape, dict):
        return shape
    return change({key: _inside(key, value, change) for key, value in shape.items()})


def _inside(key: str, value: Any, change: Callable[[Shape], Shape]) -> Any:
    if key in _OF_VALUES:
        return value
    if key in _OF_NAMES and isinstance(value, dict):
        return {name: changed(each, change) for name, each in value.items()}
    return changed(value, change)


def beside(shape: Shape, more: Shape) -> Shape:
    """A schema that keeps to one more."""
    allof = shape.get("allOf", [])
    return {**shape, "allOf": [*allof, more]} if isinstance(allof, list) else shape
