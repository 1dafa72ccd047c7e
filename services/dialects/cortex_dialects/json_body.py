"""A request body's bytes as a JSON object, or a 400 that says what is wrong with it.

Stricter than `json`: what JSON has no word for (NaN), what has no one meaning (a key twice), what is no text (a lone
surrogate) and what would overflow a later recursion (deep nesting) are errors here, so that nothing later meets them.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from cortex_contracts.wire.errors import InvalidJson

MAX_DEPTH = 100
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_object(body: bytes) -> dict[str, Any]:
    """The body as an object. Raises InvalidJson."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidJson(f"The body is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}") from error
    value = parse_value(text)
    if not isinstance(value, dict):
        raise InvalidJson(f"The body must be a JSON object; it is {_kind(value)}")
    return value


def parse_value(text: str) -> Any:
    """Any JSON text. Raises InvalidJson."""
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_float=_finite, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno} (character {error.pos})"
        raise InvalidJson(f"The body is not JSON: {error.msg}: {where}") from error
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:  # an integer of more than 4300 digits
        raise InvalidJson("The body has a number that is too long") from error
    if _is_deep(value):
        raise _too_deep()
    if _SURROGATE.search(text) and _has_lone_surrogate(value):
        raise InvalidJson("The body has a string with half of a surrogate pair (\\ud800 to \\udfff), which is no text")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidJson(f"The body has the key {ascii(twice)[:80]} twice in one object")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise InvalidJson(f"The body has a number that is too large: {text[:40]}")
    return value


def _no_constant(name: str) -> None:
    raise InvalidJson(f"The body has {name}, which is not JSON")


def _too_deep() -> InvalidJson:
    return InvalidJson(f"The body is nested more than {MAX_DEPTH} deep")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return any(isinstance(node, dict | list) for node in level)


def _has_lone_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _kind(value: Any) -> str:
    kinds = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
