"""A model's thinking told from its answer (case S4).

Owns: the split of text at <think> and </think>. Only models whose vocabulary has </think> are split. Called by:
choice.
"""

from __future__ import annotations

from enum import Enum

_START, _END = "<think>", "</think>"


class _Part(Enum):
    UNDECIDED = "nothing but white space yet"
    BEFORE_THINKING = "white space between the tag and the thought"
    THINKING = "inside of the block"
    AFTER_THINKING = "white space between the block and the answer"
    ANSWER = "the answer"


class ReasoningSplit:
    """Text in, (reasoning, answer) out. The tags and the white space after them belong to neither."""

    def __init__(self, *, enabled: bool, thinking: bool) -> None:
        self._part = _Part.ANSWER if not enabled else _Part.BEFORE_THINKING if thinking else _Part.UNDECIDED
        self._held = ""

    def push(self, text: str) -> tuple[str, str]:
        """What `text` adds to the reasoning and to the answer; a piece that may be a tag is held back."""
        if self._part is _Part.ANSWER:
            return "", text
        self._held += text
        reasoning = ""
        if self._part is _Part.UNDECIDED:
            self._decide()
        self._skip_space(_Part.BEFORE_THINKING, _Part.THINKING)
        if self._part is _Part.THINKING:
            reasoning = self._think()
        self._skip_space(_Part.AFTER_THINKING, _Part.ANSWER)
        return reasoning, self._answer()

    def end(self) -> tuple[str, str]:
        """What was held back."""
        rest = self._take(len(self._held))
        return (rest, "") if self._part is _Part.THINKING else ("", rest)

    def _decide(self) -> None:
        begin = self._held.lstrip()
        if begin.startswith(_START):
            self._part, self._held = _Part.BEFORE_THINKING, begin[len(_START) :]
        elif not _START.startswith(begin):
            self._part = _Part.ANSWER

    def _answer(self) -> str:
        return self._take(len(self._held)) if self._part is _Part.ANSWER else ""

    def _skip_space(self, part: _Part, following: _Part) -> None:
        if self._part is part:
            self._held = self._held.lstrip()
            if self._held:
                self._part = following

    def _think(self) -> str:
        place = self._held.find(_END)
        if place >= 0:
            thought = self._take(place + len(_END))[: -len(_END)]
            self._part = _Part.AFTER_THINKING
            return thought
        held = next((size for size in range(len(_END) - 1, 0, -1) if self._held.endswith(_END[:size])), 0)
        return self._take(len(self._held) - held)

    def _take(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text
