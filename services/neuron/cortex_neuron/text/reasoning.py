"""A model's thinking told from its answer (case S4).

Owns: the pairs of markers that there are, which of them a model has, and the split of text at them. Called by:
text_model, choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Markers:
    """What a family of models writes before its thoughts and behind them."""

    start: str
    end: str


THINK = Markers("<think>", "</think>")  # most: Qwen, DeepSeek, GLM, SmolLM
_KNOWN = (
    THINK,
    Markers("[THINK]", "[/THINK]"),  # Magistral
    Markers("<seed:think>", "</seed:think>"),  # Seed-OSS
    Markers("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    Markers("◁think▷", "◁/think▷"),  # Kimi
)


def found(tokenizer: Tokenizer, template: str) -> Markers | None:
    """The markers of a model: those whose end is one of its tokens, or in its template. None: it does not think."""
    for markers in _KNOWN:
        if tokenizer.token_to_id(markers.end) is not None or markers.end in template:
            return markers
    return None


class _Part(Enum):
    UNDECIDED = "nothing but white space yet"
    BEFORE_THINKING = "white space between the tag and the thought"
    THINKING = "inside of the block"
    AFTER_THINKING = "white space between the block and the answer"
    ANSWER = "the answer"


class ReasoningSplit:
    """Text in, (reasoning, answer) out. The tags and the white space after them belong to neither."""

    def __init__(self, *, enabled: bool, thinking: bool, markers: Markers = THINK) -> None:
        self._start, self._end = markers.start, markers.end
        self._part = _Part.ANSWER if not enabled else _Part.BEFORE_THINKING if thinking else _Part.UNDECIDED
        self._held = ""

    @property
    def is_thinking(self) -> bool:
        """Whether what comes is a thought."""
        return self._part in (_Part.BEFORE_THINKING, _Part.THINKING)

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
        if begin.startswith(self._start):
            self._part, self._held = _Part.BEFORE_THINKING, begin[len(self._start) :]
        elif not self._start.startswith(begin):
            self._part = _Part.ANSWER

    def _answer(self) -> str:
        return self._take(len(self._held)) if self._part is _Part.ANSWER else ""

    def _skip_space(self, part: _Part, following: _Part) -> None:
        if self._part is part:
            self._held = self._held.lstrip()
            if self._held:
                self._part = following

    def _think(self) -> str:
        place = self._held.find(self._end)
        if place >= 0:
            thought = self._take(place + len(self._end))[: -len(self._end)]
            self._part = _Part.AFTER_THINKING
            return thought
        held = next((size for size in range(len(self._end) - 1, 0, -1) if self._held.endswith(self._end[:size])), 0)
        return self._take(len(self._held) - held)

    def _take(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text
