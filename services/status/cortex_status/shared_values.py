"""Variables that many hosts share, such as the catalogue, templated once for all of them.

Owns: which of a host's variables are templated at all, and knowing that two hosts' values come out alike: they are of
one text, and so is everything that the text names. A catalogue of 60 models costs 35 ms to template, which 200 hosts
made 7 s. Does not own: the templating (the caller's), what a value may be (cortex_contracts.inventory).
Called by: inventory.py, and the filters of ansible/plugins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cortex_contracts.inventory.variables import Unreadable, is_ours, plain

_NAME = re.compile(r"[A-Za-z_]\w*")
# What can read a variable by a name that no text need hold; a value that uses one is its host's own.
_ANYTHING = frozenset({"lookup", "query", "q", "vars", "hostvars"})

Template = Callable[[Any], Any]
Key = tuple[Any, ...]


class SharedValues:
    """Templated values by what they were made of."""

    def __init__(self) -> None:
        # An identity means a value as long as that is kept.
        self._values: dict[Key, tuple[Any, list[Any]]] = {}
        self._named: dict[int, tuple[frozenset[str], Any]] = {}

    def of(self, raw: Mapping[str, Any], template: Template) -> dict[str, Any]:
        """One host's variables that are cortex's: `raw` is all that it has, `template` gives a raw value's value."""
        return {str(name): self._value(name, raw, template) for name in sorted(filter(is_ours, raw))}

    def _value(self, name: str, raw: Mapping[str, Any], template: Template) -> Any:
        ingredients = self._ingredients(name, raw)
        if ingredients is None:
            return _templated(raw[name], template)
        key = tuple(part for item in ingredients.items() for part in (item[0], _identity(item[1])))
        if key not in self._values:
            self._values[key] = _templated(raw[name], template), [*ingredients.values()]
        return self._values[key][0]

    def _ingredients(self, name: str, raw: Mapping[str, Any]) -> dict[str, Any] | None:
        """The variable and all that it names, and so on; None where that cannot be known."""
        found: dict[str, Any] = {}
        waiting = [name]
        while waiting:
            name = waiting.pop()
            found[name] = raw[name]
            names = self._names(raw[name])
            if not _ANYTHING.isdisjoint(names):
                return None
            waiting += (other for other in sorted(names) if other in raw and other not in found)
        return found

    def _names(self, value: Any) -> frozenset[str]:
        if id(value) not in self._named:
            names = (name for text in _templates(value) for name in _NAME.findall(text))
            self._named[id(value)] = frozenset(names), value
        return self._named[id(value)][0]


def _templated(value: Any, template: Template) -> Any:
    """The value; where that cannot be had, as much of it as can, and reasons in the place of the rest."""
    from ansible.errors import AnsibleError  # late: ansible-core wants to be started first
    from jinja2 import Undefined, UndefinedError

    try:
        made = template(value)
        if isinstance(made, Undefined):  # inside a play an error is a value at first
            made.trip()  # ansible-core's own have it
        return plain(made)
    except (AnsibleError, UndefinedError) as error:
        if isinstance(value, Mapping):
            return {str(key): _templated(item, template) for key, item in value.items()}
        if isinstance(value, list):
            return [_templated(item, template) for item in value]
        return Unreadable.because(error)


def _templates(value: Any) -> Iterator[str]:
    """Every text within a value that Jinja would do something with."""
    if isinstance(value, str):
        if "{{" in value or "{%" in value:
            yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _templates(key)
            yield from _templates(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _templates(item)


def _identity(value: Any) -> Any:
    return (type(value), value) if isinstance(value, str | int | float | None) else id(value)
