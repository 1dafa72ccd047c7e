"""Every field of the official SDKs' request types, sent, and what becomes of it: read, refused by name, or neither.

Owns: the walk through their TypedDicts. Does not own: the values (sdk_values.py), nor what a request comes to, which
whoever asks for the walk says. Called by: test_fields_of_the_sdks.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sdk_values import fewest, fields, is_object, parts, values, words

from cortex_contracts.wire.errors import InvalidRequest

Ask = Callable[[Any], object]  # what a value comes to; raises InvalidRequest


@dataclass
class Fate:
    """What becomes of the fields of one kind of object: each is in one of the three."""

    read: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)  # taken, and nothing depends on it
    refused: dict[str, list[Any]] = field(default_factory=dict)  # with the values that are taken all the same
    whole: bool = True  # the object can be had at all


Fates = dict[str, Fate]  # by place, such as `messages[].content[text]`: the last brackets hold its type or role
Found = Iterator[tuple[str, Fate]]


def walk(typed_dicts: Iterable[Any], base: Mapping[str, Any], ask: Ask) -> tuple[Fate, Fates]:
    """What becomes of each parameter, sent beside those of `base`, and of what is in those that are read."""
    fate, plain = Fate(), ask(dict(base))
    found = [
        _field(fate, hint, name, _beside(base, name, ask), plain, ())
        for typed_dict in typed_dicts
        for name, hint in fields(typed_dict).items()
    ]
    fates = _merged(each for inside in found for each in inside)
    return fate, {place: each for place, each in fates.items() if each != Fate()}


def _field(
    fate: Fate, hint: Any, place: str, ask: Ask, plain: object, above: tuple[Any, ...]
) -> list[tuple[str, Fate]]:
    """Sorts the field into `fate`, and returns the objects inside of it, if anything of it is read."""
    name = place.rpartition(".")[2]
    sent = list(values(hint))
    taken, told = [], False
    for value in sent:
        answer = _answer(ask, value)
        if isinstance(answer, InvalidRequest):
            _check_named(answer, place)
        else:
            taken.append(value)
            told |= answer != plain
    found = list(_inside(hint, place, ask, above)) if taken else []
    if told or any(inner.read or inner.refused for _, inner in found):
        fate.read.add(name)
        return found
    if len(taken) < len(sent):
        fate.refused[name] = taken
    else:
        fate.silent.add(name)
    return []


def _inside(hint: Any, place: str, ask: Ask, above: tuple[Any, ...]) -> Found:
    """Of the objects that a value of this type may be or hold."""
    if is_object(hint):
        for word in () if hint in above else words(hint) or [""]:
            yield from _object(hint, word, place, ask, (*above, hint))
    for inner, is_listed in parts(hint):
        if is_listed:
            yield from _inside(inner, f"{place}[]", _listed(ask), above)
        else:
            yield from _inside(inner, place, ask, above)


def _object(kind: Any, word: str, place: str, ask: Ask, above: tuple[Any, ...]) -> Found:
    least, fate = fewest(kind, word), Fate()
    plain = _answer(ask, least)
    if isinstance(plain, InvalidRequest):
        _check_named(plain, place)
        fate.whole = False
    else:
        for name in fields(kind).keys() - ({"type", "role"} if word else set()):
            beside = _beside(least, name, ask)
            yield from _field(fate, fields(kind)[name], f"{place}.{name}", beside, plain, above)
    yield (f"{place.removesuffix('[]')}[{word}]" if word else place), fate


def _beside(least: Mapping[str, Any], name: str, ask: Ask) -> Ask:
    return lambda value: ask({**least, name: value})


def _listed(ask: Ask) -> Ask:
    return lambda value: ask([value])


def _merged(found: Iterable[tuple[str, Fate]]) -> Fates:
    """Of an object that may stand in several places: where it may stand, it can be had; where it is read, it is."""
    fates = Fates()
    for place, fate in found:
        known = fates.setdefault(place, Fate(whole=False))
        known.whole |= fate.whole
        known.read |= fate.read
        known.silent |= fate.silent
        known.refused |= fate.refused
    for fate in fates.values():
        fate.refused = {name: taken for name, taken in fate.refused.items() if name not in fate.read}
        fate.silent -= fate.read | fate.refused.keys()
    return fates


def _answer(ask: Ask, value: Any) -> object:
    try:
        return ask(value)
    except InvalidRequest as error:
        return error


def _check_named(error: InvalidRequest, place: str) -> None:
    """Whoever sent it can tell from the answer what it was."""
    named = re.sub(r"\[\d+\]", "[]", error.param or "")
    name = place.removesuffix("[]").rpartition(".")[2]
    assert named.startswith(place) or re.search(rf"\b{name}\b", error.message), (place, error.param, error.message)
