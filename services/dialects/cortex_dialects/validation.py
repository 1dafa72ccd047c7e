"""A request's object against its shape: the first problem, in the words of the API, as a 400 that names the parameter.

Called by: openai.py and anthropic.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cortex_contracts.wire.errors import InvalidParameter, InvalidRequest, UnsupportedParameter
from cortex_dialects.unsupported import Unsupported

_MAX_SHOWN = 80
_INDEX = re.compile(r"\[\d+\]")
# JSON's words for what pydantic says in Python's.
_EXPECTED = {
    "model_attributes_type": "an object",
    "model_type": "an object",
    "dict_type": "an object",
    "list_type": "a list",
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
}
Shape = TypeVar("Shape", bound=BaseModel)


def validate(shape: type[Shape], body: dict[str, Any], unsupported: Unsupported) -> Shape:
    """`body` as `shape`. Raises UnsupportedParameter or InvalidParameter, with the path to the culprit as `param`."""
    honoured = {name: value for name, value in body.items() if not _asks_nothing(name, value, shape, unsupported)}
    for name in honoured:
        if name in unsupported and name not in shape.model_fields:
            raise UnsupportedParameter(_not_supported(name, honoured[name], unsupported[name]), param=name)
        if name not in shape.model_fields:
            raise UnsupportedParameter(_unknown(name, [*shape.model_fields, *unsupported]), param=name[:_MAX_SHOWN])
    try:
        return shape.model_validate(honoured)
    except ValidationError as error:
        raise _first_problem(error, honoured, unsupported) from None


def _asks_nothing(name: str, value: Any, shape: type[BaseModel], unsupported: Unsupported) -> bool:
    if name in shape.model_fields or name not in unsupported:
        return False
    return value is None or value in unsupported[name]


def _not_supported(name: str, value: Any, accepted: Iterable[Any]) -> str:
    shown = " or ".join(_show(item) for item in accepted)
    hint = f"; leave it out or send {shown}" if shown else "; leave it out"
    return f"{name}: not supported{hint} (it is {_show(value)})"


def _unknown(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name[:_MAX_SHOWN], known, n=1, cutoff=0.75)
    return f"{_show(name)} is not a parameter" + (f"; did you mean {close[0]!r}?" if close else "")


def _first_problem(error: ValidationError, body: dict[str, Any], unsupported: Unsupported) -> InvalidRequest:
    problem = error.errors(include_url=False)[0]
    path, kind = _path(problem, body), problem["type"]
    if kind == "extra_forbidden":
        return UnsupportedParameter(f"{path}: not a parameter", param=path)
    if kind == "none_required":
        return UnsupportedParameter(f"{path}: not supported; leave it out", param=path)
    accepted = unsupported.get(_INDEX.sub("[]", path))
    if kind == "literal_error" and accepted is not None:
        return UnsupportedParameter(_not_supported(path, problem["input"], accepted), param=path)
    if kind in ("missing", "union_tag_not_found"):
        return InvalidParameter(f"{path}: required and missing", param=path)
    if kind == "union_tag_invalid":
        context = problem["ctx"]
        return InvalidParameter(f"{path}: expected {context['expected_tags']}; it is {context['tag']!r}", param=path)
    expected = problem["msg"].replace("Input should be ", "expected ", 1)
    if kind in _EXPECTED:
        expected = f"expected {_EXPECTED[kind]}"
    return InvalidParameter(f"{path}: {expected}; it is {_show(problem['input'])}", param=path)


def _path(problem: ErrorDetails, body: dict[str, Any]) -> str:
    """Such as messages[2].content. Steps that are not in the body are names of a union's branches: left out."""
    path, node = "", body
    for step in problem["loc"]:
        if isinstance(step, int) and isinstance(node, list):
            path, node = f"{path}[{step}]", node[step]
        elif isinstance(node, dict) and step in node:
            path, node = f"{path}.{step}", node[step]
    if problem["type"] == "missing":
        path = f"{path}.{problem['loc'][-1]}"
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        path = f"{path}.{problem['ctx']['discriminator'].strip(chr(39))}"
    return path.removeprefix(".")[: 2 * _MAX_SHOWN]


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
