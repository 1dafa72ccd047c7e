"""Calls told while they are written, of an answer that a grammar keeps to them: such a one can be cut, and not break.

Owns: what of the text is a call's name, and what its arguments. Does not own: whether an answer is bound, or where its
first call begins (split.py); how a family writes them (the formats). Called by: split.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cortex_dialects.generation import ToolUse
from cortex_neuron.text.tool_calls.layout import Arguments, Layout


@dataclass(frozen=True, slots=True)
class Begun:
    """A call whose arguments follow, in `More`s."""

    name: str


@dataclass(frozen=True, slots=True)
class More:
    """A piece of the JSON that is the arguments of the call begun last."""

    arguments: str


class BoundCalls:
    """Text in, from what opens the first call on; calls out. How it is cut makes no difference to what they join to."""

    def __init__(self, layout: Layout, use: ToolUse) -> None:
        self._layout = layout
        self._schemas = {tool.name: tool.schema for tool in use.tools}
        self._held = ""  # of what is no argument
        self._open: Arguments | None = None
        self._skipped = 0  # characters that stand between name and arguments, and are still to come
        self._num_begun = 0
        self.num_complete = 0  # calls whose arguments have all come

    def push(self, text: str) -> Iterator[Begun | More]:
        """What `text` tells."""
        self._held += text
        while self._held:
            if self._open is None:
                head = self._layout.head.search(self._held)
                if head is None:
                    return
                self._held = self._held[head.end() :]
                yield self._begin(head[1])
            elif self._skipped:
                size = min(self._skipped, len(self._held))
                self._skipped, self._held = self._skipped - size, self._held[size:]
            else:
                told, self._held = self._open.push(self._held)
                if told:
                    yield More(told)
                self._close()

    def end(self) -> str:
        """What has come of a call that is none yet, as the text it is (case W6). What ends a call says nothing."""
        if self._open is not None:
            return ""
        return self._held[self._tail() :]

    def _begin(self, written: str) -> Begun:
        name = self._layout.name(written)
        self._open = self._layout.arguments(self._schemas.get(name, {}))
        self._skipped = len(self._layout.between)
        self._num_begun += 1
        return Begun(name)

    def _close(self) -> None:
        assert self._open is not None, "it was read from"
        if self._open.ended:
            self._open = None
            self.num_complete += 1

    def _tail(self) -> int:
        """How many characters of what is held are the end of a call, cut or not."""
        held = self._held if self._num_begun else ""
        known = (tail for tail in self._layout.tails if held.startswith(tail) or tail.startswith(held))
        return max((min(len(tail), len(held)) for tail in known), default=0)
