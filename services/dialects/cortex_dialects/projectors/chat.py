"""Events as /v1/chat/completions.

Owns: chunks and the document. Called by: projectors/__init__.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

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
from cortex_dialects.projectors.openai import OpenAIProjector, token_logprobs, usage_shape


class ChatProjector(OpenAIProjector):
    """See Projector."""

    def __init__(self, generation: Generation, answer_id: str, created: int) -> None:
        super().__init__(generation, answer_id, created)
        self._text = [self._frame(i, wire.ChatDelta(content=MARK)) for i in range(self._num_choices)]
        self._reasoning = [self._frame(i, wire.ChatDelta(reasoning_content=MARK)) for i in range(self._num_choices)]
        self._arguments: dict[tuple[int, int], Frame] = {}  # of a choice's calls

    def opening(self) -> bytes:
        role = wire.ChatDelta(role="assistant", content="")
        return b"".join(self._event(wire.ChatChunkChoice(index=i, delta=role)) for i in range(self._num_choices))

    def event(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                return self._text_delta(event)
            case ReasoningDelta():
                return self._reasoning[event.index].holding(event.text) if event.text else b""
            case ToolCallDelta():
                return self._tool_delta(event)
            case Finished():
                self._unfinished.discard(event.index)
                end = wire.ChatChunkChoice(index=event.index, delta=wire.ChatDelta(), finish_reason=event.reason)
                return self._event(end)
            case Usage():
                return sse.data(self._chunk([], usage_shape(event)).model_dump_json()) if self._include_usage else b""
            case Failed():
                return self.failure(event.error)

    def document(self, events: Iterable[Event]) -> bytes:
        choices, usage = collect(events, self._num_choices)
        answer = wire.ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[self._choice(i, choice) for i, choice in enumerate(choices)],
            usage=usage_shape(usage),
        )
        return answer.model_dump_json().encode()

    def _text_delta(self, event: TextDelta) -> bytes:
        if event.logprobs or (self._with_ids and event.token_ids):
            choice = wire.ChatChunkChoice(
                index=event.index,
                delta=wire.ChatDelta(content=event.text),
                logprobs=_logprobs(event.logprobs),
                token_ids=list(event.token_ids) if self._with_ids else None,
            )
            return self._event(choice)
        return self._text[event.index].holding(event.text) if event.text else b""

    def _tool_delta(self, event: ToolCallDelta) -> bytes:
        if event.id is not None or event.name is not None:
            delta = wire.ChatDelta(tool_calls=[_tool_delta(event)])
            return self._event(wire.ChatChunkChoice(index=event.index, delta=delta))
        key = event.index, event.call
        if key not in self._arguments:
            marked = wire.ChatDelta(tool_calls=[_tool_delta(replace(event, arguments=MARK))])
            self._arguments[key] = self._frame(event.index, marked)
        return self._arguments[key].holding(event.arguments)

    def _choice(self, index: int, choice: CollectedChoice) -> wire.ChatChoice:
        calls = [
            wire.CalledTool(id=call.id, function=wire.CalledFunction(name=call.name, arguments=call.arguments))
            for _, call in sorted(choice.calls.items())
        ]
        answer = wire.ChatAnswer(
            content=choice.text if choice.text or not calls else None,
            reasoning_content=choice.reasoning or None,
            tool_calls=calls or None,
        )
        return wire.ChatChoice(
            index=index,
            message=answer,
            logprobs=_logprobs(choice.logprobs) if self._with_logprobs else None,
            finish_reason=choice.finish_reason,
            token_ids=choice.token_ids if self._with_ids else None,
        )

    def _frame(self, index: int, delta: wire.ChatDelta) -> Frame:
        return Frame(self._chunk([wire.ChatChunkChoice(index=index, delta=delta)]))

    def _event(self, choice: wire.ChatChunkChoice) -> bytes:
        return sse.data(self._chunk([choice]).model_dump_json())

    def _chunk(self, choices: list[wire.ChatChunkChoice], usage: wire.Usage | None = None) -> wire.ChatChunk:
        return wire.ChatChunk(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)


def _tool_delta(event: ToolCallDelta) -> wire.ToolDelta:
    return wire.ToolDelta(
        index=event.call,
        id=event.id,
        type="function" if event.id is not None else None,
        function=wire.FunctionDelta(name=event.name, arguments=event.arguments),
    )


def _logprobs(tokens: Iterable[TokenLogprob]) -> wire.ChatLogprobs | None:
    content = token_logprobs(tokens)
    return wire.ChatLogprobs(content=content) if content else None
