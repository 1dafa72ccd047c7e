"""One sequence's tokens as events: text, reasoning, log-probabilities, the end.

Owns: the order detokenise -> stop strings -> reasoning -> tool calls. No clock, no I/O. Called by: inference.answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from cortex_dialects.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)
from cortex_dialects.generation import ToolUse
from cortex_neuron.protocol.frames import Output, TokenLogprobs
from cortex_neuron.text.detokenizer import Detokenizer
from cortex_neuron.text.reasoning import THINK, ReasoningSplit
from cortex_neuron.text.stop_strings import StopStrings
from cortex_neuron.text.text_model import TextModel
from cortex_neuron.text.tool_calls.bound_calls import Begun, More
from cortex_neuron.text.tool_calls.split import Piece, ToolSplit
from cortex_neuron.text.tool_calls.tool_format import Call

# Tokens of a text prompt that are enough to know how it goes on.
_TAIL = 6
_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


class Choice:
    """What has come of choice `index`. Once `finished` is set nothing more follows."""

    def __init__(
        self,
        index: int,
        model: TextModel,
        prompt: Sequence[int],
        *,
        stop: tuple[str, ...],
        chat: bool,
        num_top: int | None,
        tool_use: ToolUse | None = None,
    ) -> None:
        """`tool_use` that is forced: a grammar sees to it."""
        self.num_tokens = 0
        self.num_thoughts = 0  # tokens of reasoning, its markers' included
        self.finished: Finished | None = None
        self._index = index
        self._model = model
        shown = model.shown if chat else {}
        self._detokenizer = Detokenizer(model.tokenizer, () if chat else prompt[-_TAIL:], shown)
        self._stop = StopStrings(stop)
        markers = model.thought_markers if chat else None
        self._reasoning = ReasoningSplit(
            enabled=markers is not None, thinking=model.begins_in_thought(prompt), markers=markers or THINK
        )
        self._tools = ToolSplit(model.tool_format, tool_use) if tool_use and model.tool_format else None
        self._ends_with_call = tool_use is not None and not tool_use.parallel
        self._may_bind = not stop
        self._num_begun = 0  # calls
        if tool_use is not None and tool_use.forced:
            self._bind()
        self._num_top = num_top

    def take(self, output: Output) -> Iterator[Event]:
        """The events of one step's output; tokens after the end of a stop string, or of the one call, are nobody's."""
        places = range(1, len(output.tokens)) if self._ends_with_call or self._num_top is not None else ()
        for part in _parts(output, places or [output.opened_at or 0]):
            if self.finished is None:
                yield from self._take(part)

    def _take(self, output: Output) -> Iterator[Event]:
        probabilities: Sequence[TokenLogprobs | None] = output.logprobs or [None] * len(output.tokens)
        reasoning, answer, seen, shown = "", "", [], []
        if output.opened_at == 0 and not self._reasoning.is_thinking:
            self._bind()
        for token, probability in zip(output.tokens, probabilities, strict=True):
            self.num_tokens += 1
            seen.append(token)
            if probability is not None:
                shown.append(self._logprob(token, probability))
            thought, said = self._think(self._stop.push(self._detokenizer.push(token)))
            reasoning, answer = reasoning + thought, answer + said
            if self._stop.found is not None:
                break
        ends = self._stop.found is not None or output.finish is not None
        if ends:
            thought, said = self._rest()
            reasoning, answer = reasoning + thought, answer + said
        yield from self._deltas(reasoning, answer, tuple(seen), tuple(shown))
        if self._ends_with_call and self._num_calls:
            yield from self._end("stop")
        elif ends:
            yield from self._end("stop" if self._stop.found is not None else _REASONS[output.finish or "stop"])

    def _bind(self) -> None:
        """What comes is calls. A stop string may break one that a grammar lets not: then it is told once complete."""
        if self._tools is not None and self._may_bind:
            self._tools.bind()

    def _think(self, text: str) -> tuple[str, str]:
        before = self._reasoning.is_thinking
        parts = self._reasoning.push(text)
        self.num_thoughts += before or self._reasoning.is_thinking
        return parts

    def _rest(self) -> tuple[str, str]:
        """What was held back for tokens that do not come any more."""
        held = ""
        if self._stop.found is None:
            held = self._stop.push(self._detokenizer.end())
        if self._stop.found is None:
            held += self._stop.end()
        reasoning, answer = self._reasoning.push(held)
        more_reasoning, more_answer = self._reasoning.end()
        return reasoning + more_reasoning, answer + more_answer

    def _deltas(
        self, reasoning: str, answer: str, tokens: tuple[int, ...], shown: tuple[TokenLogprob, ...]
    ) -> Iterator[Event]:
        if reasoning:
            yield ReasoningDelta(self._index, reasoning)
        pieces: list[Piece] = [answer] if self._tools is None else self._tools.push(answer)
        if tokens and not (pieces and isinstance(pieces[0], str)):
            pieces = ["", *pieces]
        for place, piece in enumerate(pieces):
            if not isinstance(piece, str):
                yield from self._call(piece)
            elif place == 0 and (piece or tokens):
                yield TextDelta(self._index, piece, shown, tokens)
            elif piece:
                yield TextDelta(self._index, piece)

    def _call(self, piece: Call | Begun | More) -> Iterator[Event]:
        assert self._model.tool_format is not None, "it has told a call"
        if not isinstance(piece, More):
            self._num_begun += 1
            new_id = self._model.tool_format.new_id()
            yield ToolCallDelta(self._index, self._num_begun - 1, "", new_id, piece.name)
        if not isinstance(piece, Begun):
            yield ToolCallDelta(self._index, self._num_begun - 1, piece.arguments)

    @property
    def _num_calls(self) -> int:
        """Those that are complete."""
        return 0 if self._tools is None else self._tools.num_calls

    def _end(self, reason: FinishReason) -> Iterator[Event]:
        for text in self._tools.end() if self._tools is not None else ():
            yield TextDelta(self._index, text)
        called = reason == "stop" and self._num_calls > 0
        self.finished = Finished(self._index, "tool_calls" if called else reason, self._stop.found)
        yield self.finished

    def _logprob(self, token: int, probability: TokenLogprobs) -> TokenLogprob:
        best = zip(probability.top_ids, probability.top, strict=True)
        top = tuple(TokenLogprob(*self._model.token(each), value) for each, value in best)[: self._num_top]
        return TokenLogprob(*self._model.token(token), probability.chosen, top)


def _parts(output: Output, places: Sequence[int]) -> Iterator[Output]:
    """The output as if what stands from each of these places on had come in a step of its own."""
    starts = [0, *filter(None, places)]
    for start, end in zip(starts, [*starts[1:], len(output.tokens)], strict=True):
        yield msgspec.structs.replace(
            output,
            tokens=output.tokens[start:end],
            logprobs=None if output.logprobs is None else output.logprobs[start:end],
            finish=output.finish if end == len(output.tokens) else None,
            opened_at=0 if output.opened_at == start else None,
        )
