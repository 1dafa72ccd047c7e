"""Calls told from text in an answer that comes in pieces (case W6).

Owns: holding back what may be a call until it is one. A block that is none, or that the answer's end has cut, comes
out as the text it is: nothing is ever lost, and nothing half a call. White space beside calls is nobody's. From where a
grammar binds the answer to calls nothing is held back (bound_calls.py). Called by: choice.
"""

from __future__ import annotations

from enum import Enum, auto

from cortex_dialects.generation import ToolUse
from cortex_neuron.text.tool_calls.bound_calls import Begun, BoundCalls, More
from cortex_neuron.text.tool_calls.tool_format import Call, Malformed, ToolFormat

Piece = str | Call | Begun | More

_ENDS = frozenset("}]>")  # one of these is a call's last character
_EARLY = 64  # characters of a block within which it shows that it is none


class _Part(Enum):
    TEXT = auto()
    BLOCK = auto()


class ToolSplit:
    """Text in, text and calls out, in their order. The pieces' lengths make no difference."""

    def __init__(self, tool_format: ToolFormat, use: ToolUse) -> None:
        self._format, self._use = tool_format, use
        self._part = _Part.TEXT
        self._held = ""
        self._space = ""  # before what is held: the text's, unless a call follows
        self._shown = False  # any text
        self._is_bound = False
        self._bound: BoundCalls | None = None
        self._num_calls = 0

    @property
    def num_calls(self) -> int:
        """Calls that have been told, and are complete."""
        return self._num_calls + (self._bound.num_complete if self._bound is not None else 0)

    def bind(self) -> None:
        """A grammar makes calls of all that comes, from the first opening on. What has begun without it is text."""
        self._is_bound = True
        if self._part is _Part.BLOCK:
            self._part, self._space, self._held = _Part.TEXT, self._space + self._held, ""

    def push(self, text: str) -> list[Piece]:
        """What `text` completes."""
        if self._bound is not None:
            return list(self._bound.push(text))
        self._held += text
        out: list[Piece] = []
        if self._part is _Part.BLOCK and len(self._held) > _EARLY and _ENDS.isdisjoint(text):
            return out
        while self._held and (self._text(out) if self._part is _Part.TEXT else self._block(out)):
            if self._num_calls and not self._use.parallel:
                self._held = self._space = ""
        return out

    def end(self) -> list[str]:
        """What was held back: text."""
        rest, self._held = self._held, ""
        if self._bound is not None:
            rest = self._bound.end()
        space, self._space = self._space, ""
        text = space + rest
        if self.num_calls and not text.strip():
            return []
        return [text] if text else []

    def _text(self, out: list[Piece]) -> bool:
        """Show what is surely text. True if a block begins."""
        if self._num_calls and not self._shown:
            self._drop_closers()
        place = self._opening()
        begins = place is not None
        end = len(self._held) - self._undecided() if place is None else place
        text, self._held = self._space + self._held[:end], self._held[end:]
        said = text.rstrip()
        self._space = text[len(said) :]
        if said:
            self._say(out, said)
        if begins:
            self._part = _Part.BLOCK
        return begins

    def _say(self, out: list[Piece], text: str) -> None:
        self._shown = True
        out.append(text)

    def _block(self, out: list[Piece]) -> bool:
        """Read the block. True if it is over, one way or the other."""
        if self._is_bound:
            self._bound = BoundCalls(self._format.layout, self._use)
            out += self._bound.push(self._held)
            self._held = self._space = ""
            return False
        try:
            parsed = self._format.parse(self._held, self._use)
        except Malformed:
            opening = next((each for each in self._format.openings if self._held.startswith(each)), self._held[:1])
            text, self._space = self._space + opening, ""
            self._held = self._held[len(opening) :]
            self._say(out, text)
            self._part = _Part.TEXT
            return True
        if parsed is None:
            return False
        calls, end = parsed
        out += calls if self._use.parallel else calls[:1]
        self._num_calls += len(calls)
        self._held, self._space, self._shown = self._held[end:], "", False
        self._part = _Part.TEXT
        return True

    def _drop_closers(self) -> None:
        rest = self._held.lstrip()
        for closer in self._format.closers:
            if rest.startswith(closer):
                self._held, self._space = rest[len(closer) :], ""

    def _opening(self) -> int | None:
        """Where the first block begins."""
        places = [place for each in self._format.openings if (place := self._held.find(each)) >= 0]
        if self._format.bare and not self._shown:
            start = len(self._held) - len(self._held.lstrip())
            if self._held.startswith("{", start):
                places.append(start)
        return min(places, default=None)

    def _undecided(self) -> int:
        """How many of the last characters may be the beginning of a marker."""
        marks = self._format.openings + (self._format.closers if self._num_calls else ())
        longest = min(len(self._held), max(map(len, marks)) - 1)
        sizes = range(longest, 0, -1)
        return next((size for size in sizes if any(each.startswith(self._held[-size:]) for each in marks)), 0)
