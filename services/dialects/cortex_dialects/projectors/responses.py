"""Events as /v1/responses.

Owns: how a run of like events becomes one output item, streamed or whole, and the events of a response's own life.
Called by: projectors/__init__.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Literal

from pydantic import BaseModel

from cortex_contracts.wire import responses_answer as wire
from cortex_contracts.wire.errors import CortexError
from cortex_dialects import sse
from cortex_dialects.dialect import Dialect, error_event, keepalive
from cortex_dialects.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from cortex_dialects.generation import Generation
from cortex_dialects.projectors.collected import collect, cut_short
from cortex_dialects.projectors.frame import MARK, NumberedFrame
from cortex_dialects.projectors.output_item import Delta, MessageItem, OpenItem, item_for

_INCOMPLETE: dict[FinishReason, Literal["max_output_tokens", "content_filter"]] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}
# What tells one item from the next: the kind, and for calls which.
ItemKey = tuple[str, int]


class ResponsesProjector:
    """See Projector. There is one choice: the dialect has no `n`."""

    def __init__(self, generation: Generation, name: str, created: int) -> None:
        self._name = name
        repeated = dict(generation.repeated or wire.Repeated())
        self._response = wire.Response(id=f"resp_{name}", created_at=created, model=generation.model, **repeated)
        self._number = 0  # of the next event
        self._output: list[wire.OutputItem] = []
        self._open: OpenItem | None = None
        self._key: ItemKey | None = None
        self._frame: NumberedFrame | None = None
        self._finished: Finished | None = None
        self._usage = Usage(0, 0)

    def opening(self) -> bytes:
        return self._lifecycle("response.created", self._response) + self._lifecycle(
            "response.in_progress", self._response
        )

    def event(self, event: Event) -> bytes:
        match event:
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                return self._delta(event)
            case Finished():
                return self._finish(event)
            case Usage():
                self._usage = event
                return b""
            case Failed():
                return self.failure(event.error)

    def keepalive(self) -> bytes:
        return keepalive(Dialect.RESPONSES)

    def failure(self, error: CortexError) -> bytes:
        """Told twice: OpenAI's SDK raises for the second event alone, and others look for the first.

        OpenAI has few codes for the first; ours is in the second.
        """
        output = self._output if self._open is None else [*self._output, self._open.item("incomplete")]
        reason = wire.ResponseFailure(code=_failure_code(error), message=error.message)
        failed = self._response.model_copy(update={"status": "failed", "error": reason, "output": output})
        return self._lifecycle("response.failed", failed) + error_event(Dialect.RESPONSES, error, self._number)

    def closing(self) -> bytes:
        if self._finished is None:
            return self.failure(cut_short())
        whole = self._whole(self._finished)
        if whole.incomplete_details is None:
            return self._lifecycle("response.completed", whole)
        return self._lifecycle("response.incomplete", whole)

    def document(self, events: Iterable[Event]) -> bytes:
        kept = list(events)
        collect(kept, num_choices=1)  # raises what the answer has failed with
        for event in kept:
            self.event(event)
        assert self._finished is not None, "it was collected"
        return self._whole(self._finished).model_dump_json().encode()

    def _delta(self, event: Delta) -> bytes:
        key = _key(event)
        if key is None or (isinstance(event, TextDelta) and not event.text and self._is_calling):
            return b""
        start = b"" if key == self._key else self._end_item("completed") + self._begin_item(event, key)
        assert self._open is not None, "an item is open"
        assert self._frame is not None, "an item is open"
        text, logprobs = _said(event)
        self._open.add(text, logprobs)
        if logprobs:
            return start + self._event(self._open.more(text, logprobs))
        return start + self._frame.holding(text, self._next()) if text else start

    @property
    def _is_calling(self) -> bool:
        """Whether a call is open: log-probabilities of its tokens are no text's, and end no call."""
        return self._key is not None and self._key[0] == "call"

    def _begin_item(self, event: Delta, key: ItemKey) -> bytes:
        self._key, self._open = key, item_for(event, self._name, len(self._output))
        marked = self._open.more(MARK)
        self._frame = NumberedFrame(marked, marked.type)
        return b"".join(map(self._event, self._open.begun()))

    def _end_item(self, status: wire.Status) -> bytes:
        if self._open is None:
            return b""
        ended = b"".join(map(self._event, self._open.ended(status)))
        self._output.append(self._open.item(status))
        self._key = self._open = self._frame = None
        return ended

    def _finish(self, event: Finished) -> bytes:
        """The end of what is open. An answer that says nothing is a message without text, as clients expect one."""
        self._finished = event
        begun = b""
        if self._open is None and not self._output:
            self._open = MessageItem(self._name, 0)
            begun = b"".join(map(self._event, self._open.begun()))
        return begun + self._end_item("incomplete" if event.reason in _INCOMPLETE else "completed")

    def _whole(self, end: Finished) -> wire.Response:
        reason = _INCOMPLETE.get(end.reason)
        details = None if reason is None else wire.Incomplete(reason=reason)
        return self._response.model_copy(
            update={
                "status": "completed" if details is None else "incomplete",
                "incomplete_details": details,
                "output": self._output,
                "usage": _usage_shape(self._usage),
            }
        )

    def _lifecycle(
        self,
        kind: Literal[
            "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
        ],
        response: wire.Response,
    ) -> bytes:
        return self._event(wire.Lifecycle(type=kind, response=response, sequence_number=0))

    def _event(self, shape: BaseModel) -> bytes:
        numbered = shape.model_copy(update={"sequence_number": self._next()})
        return sse.event(numbered.type, numbered.model_dump_json())  # type: ignore[attr-defined]

    def _next(self) -> int:
        self._number += 1
        return self._number - 1


def _key(event: Delta) -> ItemKey | None:
    """The item that an event belongs to; none if it adds nothing to any."""
    match event:
        case TextDelta():
            return ("text", 0) if event.text or event.logprobs else None
        case ReasoningDelta():
            return ("reasoning", 0) if event.text else None
        case ToolCallDelta():
            return ("call", event.call)


def _failure_code(error: CortexError) -> wire.FailureCode:
    if error.status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"


def _said(event: Delta) -> tuple[str, tuple[TokenLogprob, ...]]:
    if isinstance(event, TextDelta):
        return event.text, event.logprobs
    return event.arguments if isinstance(event, ToolCallDelta) else event.text, ()


def _usage_shape(usage: Usage) -> wire.ResponsesUsage:
    return wire.ResponsesUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=wire.InputTokensDetails(cached_tokens=usage.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=wire.OutputTokensDetails(reasoning_tokens=usage.reasoning_tokens),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )
