"""Values of the official SDKs' request types: for each type the fewest that are unlike each other.

Called by: sdk_fields.py.
"""

from __future__ import annotations

import collections.abc
import types
from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints

import typing_extensions

_WRAPPERS = (Annotated, Required, NotRequired)
_UNIONS = (Union, types.UnionType)
_LISTS = (list, collections.abc.Iterable, collections.abc.Sequence)
_MAPPINGS = (dict, collections.abc.Mapping)
_VALUES: dict[Any, list[Any]] = {
    str: ["x", "y"], int: [1, 2], float: [0.5, 1], bool: [True, False], object: [{}], Any: [{}],
}  # fmt: skip


class Words(tuple[Any, ...]):
    """In place of a type that says less than the field takes: its values."""


# Of objects whose tools are typed as any object: the names are those that the plain requests declare.
_LOOSE = {
    ("ToolChoiceAllowedParam", "tools"): Words([{"type": "function", "name": name}] for name in "xy"),
    ("ChatCompletionAllowedToolsParam", "tools"): Words(
        [{"type": "function", "function": {"name": name}}] for name in "xy"
    ),
}


def values(hint: Any) -> Iterator[Any]:
    """Every word that it may be, one of each kind of object, several of what has no words."""
    hint = _bare(hint)
    if isinstance(hint, Words):
        return iter(hint)
    if hint in _VALUES:
        return iter(_VALUES[hint])
    if is_object(hint):
        return iter([fewest(hint, word) for word in words(hint) or [""]])
    if get_origin(hint) is Literal:
        return iter(get_args(hint))
    if get_origin(hint) in _MAPPINGS:
        return iter([{}, {"1": next(values(get_args(hint)[1]))}])
    return chain.from_iterable(
        ([value] for value in values(inner)) if is_listed else values(inner) for inner, is_listed in parts(hint)
    )


def parts(hint: Any) -> Iterator[tuple[Any, bool]]:
    """The types that it is one of or is a list of, and which of the two it is."""
    hint = _bare(hint)
    if get_origin(hint) in _LISTS:
        yield get_args(hint)[0], True
    elif get_origin(hint) in _UNIONS:
        yield from ((inner, False) for inner in get_args(hint) if inner is not types.NoneType)


def is_object(hint: Any) -> bool:
    return typing_extensions.is_typeddict(_bare(hint))


@cache
def fields(typed_dict: Any) -> dict[str, Any]:
    """Its fields' types, with whether they are required."""
    bare = _bare(typed_dict)
    hints = get_type_hints(bare, include_extras=True)
    return {name: _LOOSE.get((bare.__name__, name), hint) for name, hint in hints.items()}


def words(typed_dict: Any) -> list[str]:
    """What its `type`, or else its `role`, may be; none where it has neither."""
    return _literals(fields(typed_dict).get(_tag(typed_dict)))


def _tag(typed_dict: Any) -> str:
    return "type" if _literals(fields(typed_dict).get("type")) else "role"


def _literals(hint: Any) -> list[str]:
    hint = _bare(hint)
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [word for inner, is_listed in parts(hint) if not is_listed for word in _literals(inner)]


def fewest(typed_dict: Any, word: str = "") -> dict[str, Any]:
    """The object with nothing but what it must have, and of this type or role."""
    hints = fields(typed_dict)
    least = {name: next(values(hint)) for name, hint in hints.items() if _is_required(typed_dict, name, hint)}
    return least | ({_tag(typed_dict): word} if word else {})


def _is_required(typed_dict: Any, name: str, hint: Any) -> bool:
    """What the class says of itself is not enough: it has not looked into annotations that are text."""
    listed = name in _bare(typed_dict).__required_keys__
    return isinstance(hint, Words) or get_origin(hint) is Required or (listed and get_origin(hint) is not NotRequired)


def _bare(hint: Any) -> Any:
    """Without what says whether it is required, and without the name of an alias."""
    while get_origin(hint) in _WRAPPERS:
        hint = get_args(hint)[0]
    return _bare(hint.__value__) if isinstance(hint, typing_extensions.TypeAliasType) else hint
