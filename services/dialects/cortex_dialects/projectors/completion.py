"""Events as /v1/completions.

An echoed prompt is the first text of its choice, given as a TextDelta like any other: only the neuron has the words
of a prompt that came as token ids, and the log-probabilities of its tokens. Called by: projectors/__init__.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from cortex_contracts.wire import openai as wire
from cortex_dialects import sse
from cortex_dialects.events import (
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from cortex_dialects.generation import Generation
from cortex_dialects.projectors.collected import CollectedChoice, collect
from cortex_dialects.projectors.frame import MARK, Frame
from cortex_dialects.projectors.openai import OpenAIProjector, usage_shape


class CompletionProjector(OpenAIProjector):
    """See Projector. Completions have no place for reasoning or tool calls: a neuron makes none here."""

    def __init__(self, generation: Generation, answer_id: str, created: int) -> None:
        super().__init__(generation, answer_id, created)
        self._offsets = [0] * self._num_choices  # characters of each choice's tokens so far
        self._text = [Frame(self._chunk([self._delta(i, MARK)])) for i in range(self._num_choices)]

    def opening(self) -> bytes:
        return b""

    def event(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                return self._text_delta(event)
            case Finished():
                self._unfinished.discard(event.index)
                end = wire.CompletionChoice(index=event.index, text="", finish_reason=event.reason)
                return sse.data(self._chunk([end]).model_dump_json())
            case Usage():
                return sse.data(self._chunk([], usage_shape(event)).model_dump_json()) if self._include_usage else b""
            case Failed():
                return self.failure(event.error)
            case ReasoningDelta() | ToolCallDelta():
                return b""

    def document(self, events: Iterable[Event]) -> bytes:
        choices, usage = collect(events, self._num_choices)
        whole = [self._choice(i, choice) for i, choice in enumerate(choices)]
        return self._chunk(whole, usage_shape(usage)).model_dump_json().encode()

    def _text_delta(self, event: TextDelta) -> bytes:
        if not event.logprobs and not (self._with_ids and event.token_ids):
            return self._text[event.index].holding(event.text) if event.text else b""
        choice = self._delta(event.index, event.text, event.logprobs, event.token_ids)
        self._offsets[event.index] += sum(len(token.token) for token in event.logprobs)
        return sse.data(self._chunk([choice]).model_dump_json())

    def _delta(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob] = (), token_ids: Sequence[int] = ()
    ) -> wire.CompletionChoice:
        return wire.CompletionChoice(
            index=index,
            text=text,
            logprobs=_logprobs(logprobs, self._offsets[index]) if logprobs else None,
            token_ids=list(token_ids) if self._with_ids else None,
        )

    def _choice(self, index: int, choice: CollectedChoice) -> wire.CompletionChoice:
        return wire.CompletionChoice(
            index=index,
            text=choice.text,
            logprobs=_logprobs(choice.logprobs, 0) if self._with_logprobs else None,
            finish_reason=choice.finish_reason,
            token_ids=choice.token_ids if self._with_ids else None,
        )

    def _chunk(self, choices: list[wire.CompletionChoice], usage: wire.Usage | None = None) -> wire.Completion:
        return wire.Completion(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)


def _logprobs(tokens: Sequence[TokenLogprob], offset: int) -> wire.CompletionLogprobs:
    """`offset` is where the first token starts, in characters of the choice's text."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return wire.CompletionLogprobs(
        text_offset=offsets,
        token_logprobs=[_finite(token.logprob) for token in tokens],
        tokens=[token.token for token in tokens],
        top_logprobs=[{top.token: top.logprob for top in token.top if math.isfinite(top.logprob)} for token in tokens],
    )


def _finite(logprob: float) -> float | None:
    return logprob if math.isfinite(logprob) else None
