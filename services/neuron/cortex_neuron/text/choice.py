"""One sequence's tokens as events: text, reasoning, log-probabilities, the end.

Owns: the order detokenise -> stop strings -> reasoning. Pure: no clock, no I/O. Called by: inference.answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cortex_dialects.events import Event, Finished, FinishReason, ReasoningDelta, TextDelta, TokenLogprob
from cortex_neuron.protocol.frames import Output, TokenLogprobs
from cortex_neuron.text.detokenizer import Detokenizer
from cortex_neuron.text.reasoning import ReasoningSplit
from cortex_neuron.text.stop_strings import StopStrings
from cortex_neuron.text.text_model import TextModel

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
    ) -> None:
        self.num_tokens = 0
        self.finished: Finished | None = None
        self._index = index
        self._model = model
        self._detokenizer = Detokenizer(model.tokenizer, () if chat else prompt[-_TAIL:])
        self._stop = StopStrings(stop)
        self._reasoning = ReasoningSplit(enabled=chat and model.reasons, thinking=model.begins_in_thought(prompt))
        self._num_top = num_top

    def take(self, output: Output) -> Iterator[Event]:
        """The events of one step's output; tokens after a stop string's end are nobody's."""
        probabilities: Sequence[TokenLogprobs | None] = output.logprobs or [None] * len(output.tokens)
        text, seen, shown = "", [], []
        for token, probability in zip(output.tokens, probabilities, strict=True):
            self.num_tokens += 1
            seen.append(token)
            if probability is not None:
                shown.append(self._logprob(token, probability))
            text += self._stop.push(self._detokenizer.push(token))
            if self._stop.found is not None:
                break
        if self._stop.found is None and output.finish is not None:
            text += self._stop.push(self._detokenizer.end())
        if self._stop.found is None and output.finish is not None:
            text += self._stop.end()
        yield from self._deltas(text, tuple(seen), tuple(shown))
        if self._stop.found is not None or output.finish is not None:
            yield from self._end("stop" if self._stop.found is not None else _REASONS[output.finish or "stop"])

    def _deltas(self, text: str, tokens: tuple[int, ...], shown: tuple[TokenLogprob, ...]) -> Iterator[Event]:
        reasoning, answer = self._reasoning.push(text)
        if reasoning:
            yield ReasoningDelta(self._index, reasoning)
        if answer or tokens:
            yield TextDelta(self._index, answer, shown, tokens)

    def _end(self, reason: FinishReason) -> Iterator[Event]:
        reasoning, answer = self._reasoning.end()
        if reasoning:
            yield ReasoningDelta(self._index, reasoning)
        if answer:
            yield TextDelta(self._index, answer)
        self.finished = Finished(self._index, reason, self._stop.found)
        yield self.finished

    def _logprob(self, token: int, probability: TokenLogprobs) -> TokenLogprob:
        best = zip(probability.top_ids, probability.top, strict=True)
        top = tuple(TokenLogprob(*self._model.token(each), value) for each, value in best)[: self._num_top]
        return TokenLogprob(*self._model.token(token), probability.chosen, top)
