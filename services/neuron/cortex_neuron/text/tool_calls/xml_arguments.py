"""Qwen's XML, parameter by parameter, as the JSON of an object.

Owns: values that come in pieces. Called by: qwen_xml.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

PARAMETER_END = "\n</parameter>\n"
FUNCTION_END = "</function>"


def parameter(key: str) -> str:
    """What stands before the value of this one."""
    return f"<parameter={key}>\n"


def property_of(schema: Mapping[str, Any], key: str) -> Any:
    """What the schema says of this argument."""
    properties = schema.get("properties")
    return properties.get(key) if isinstance(properties, dict) else None


def is_text(shape: Any) -> bool:
    """Whether a value of this schema is written as the text it is."""
    return isinstance(shape, dict) and shape.get("type") == "string"


class XmlArguments:
    """See layout.Arguments. Of a function's parameters, whose names are those of its schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.ended = False
        properties = schema.get("properties")
        self._texts = {key: is_text(shape) for key, shape in properties.items()} if isinstance(properties, dict) else {}
        self._key: str | None = None  # of the value that is being read
        self._held = ""
        self._is_first = True

    def push(self, text: str) -> tuple[str, str]:
        """See layout.Arguments."""
        self._held += text
        told = "".join(self._read())
        behind = ""
        if self.ended:
            behind, self._held = self._held, ""
        return told, behind

    def _read(self) -> Iterator[str]:
        while not self.ended:
            size = len(self._held)
            yield from self._between() if self._key is None else self._value(self._key)
            if len(self._held) == size:
                return

    def _between(self) -> Iterator[str]:
        if self._held.startswith(FUNCTION_END):
            self._held = self._held[len(FUNCTION_END) :]
            self.ended = True
            yield "{}" if self._is_first else "}"
            return
        for key in self._texts:
            if self._held.startswith(parameter(key)):
                self._held = self._held[len(parameter(key)) :]
                self._key = key
                yield ("{" if self._is_first else ", ") + _string(key) + (': "' if self._texts[key] else ": ")
                self._is_first = False
                return

    def _value(self, key: str) -> Iterator[str]:
        place = self._held.find(PARAMETER_END)
        size = place if place >= 0 else len(self._held) - self._undecided()
        value, self._held = self._held[:size], self._held[size:]
        yield _string(value)[1:-1] if self._texts[key] else value
        if place >= 0:
            self._held = self._held[len(PARAMETER_END) :]
            self._key = None
            yield '"' if self._texts[key] else ""

    def _undecided(self) -> int:
        """How many of the last characters may be the beginning of the value's end."""
        sizes = range(min(len(self._held), len(PARAMETER_END) - 1), 0, -1)
        return next((size for size in sizes if self._held.endswith(PARAMETER_END[:size])), 0)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
