"""Events as /v1/messages.

Owns: how a run of like events becomes one content block, streamed or whole. Called by: projectors/__init__.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from pydantic import BaseModel
from pydantic_core import from_json

from cortex_contracts.wire import anthropic as wire
from cortex_contracts.wire.errors import CortexError, InvalidJson
from cortex_dialects import sse
from cortex_dialects.dialect import Dialect, error_event, keepalive
from cortex_dialects.events import Event, Failed, Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from cortex_dialects.generation import Generation
from cortex_dialects.json_body import parse_value
from cortex_dialects.projectors.collected import collect, cut_short
from cortex_dialects.projectors.frame import MARK, Frame

_REASONS: dict[str, wire.StopReason] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
Delta = TextDelta | ReasoningDelta | ToolCallDelta
# What tells one block from the next: the kind, and for tools which call.
BlockKey = tuple[str, int]


class MessagesProjector:
    """See Projector. There is one choice: the dialect has no `n`."""

    def __init__(self, generation: Generation, answer_id: str, prompt_tokens: int) -> None:
        self._id, self._model = answer_id, generation.model
        self._usage = Usage(prompt_tokens, completion_tokens=0)
        self._finished: Finished | None = None
        self._open: BlockKey | None = None
        self._num_blocks = 0
        self._frame: Frame | None = None
        self._thoughts: Thoughts | None = None
        self._shown = generation.show_reasoning

    def opening(self) -> bytes:
        start = wire.Message(id=self._id, model=self._model, usage=_usage_shape(self._usage))
        return _event(wire.MessageStart(message=start))

    def event(self, event: Event) -> bytes:
        match event:
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                return self._delta(event)
            case Finished():
                self._finished = event
                return self._stop_block()
            case Usage():
                self._usage = event
                return b""
            case Failed():
                return self.failure(event.error)

    def keepalive(self) -> bytes:
        return keepalive(Dialect.ANTHROPIC)

    def failure(self, error: CortexError) -> bytes:
        return error_event(Dialect.ANTHROPIC, error)

    def closing(self) -> bytes:
        if self._finished is None:
            return self.failure(cut_short())
        stopped = wire.Stopped(stop_reason=_stop_reason(self._finished), stop_sequence=self._finished.stop_sequence)
        return _event(wire.MessageDelta(delta=stopped, usage=_usage_shape(self._usage))) + _event(wire.MessageStop())

    def document(self, events: Iterable[Event]) -> bytes:
        kept = list(events)
        (choice,), usage = collect(kept, num_choices=1)
        end = Finished(0, choice.finish_reason, choice.stop_sequence)
        answer = wire.Message(
            id=self._id,
            model=self._model,
            content=_blocks(kept, self._shown),
            stop_reason=_stop_reason(end),
            stop_sequence=end.stop_sequence,
            usage=_usage_shape(usage),
        )
        return answer.model_dump_json().encode()

    def _delta(self, event: Delta) -> bytes:
        key = _key(event)
        if key is None:
            return b""
        start = b"" if key == self._open else self._stop_block() + self._start_block(event, key)
        assert self._frame is not None, "a block is open"
        text = _text(event)
        if self._thoughts is not None:
            self._thoughts.add(text)
            text = text if self._shown else ""
        return start + self._frame.holding(text) if text else start

    def _start_block(self, event: Delta, key: BlockKey) -> bytes:
        index = self._num_blocks
        self._open, self._num_blocks = key, index + 1
        self._thoughts = Thoughts() if isinstance(event, ReasoningDelta) else None
        self._frame = Frame(wire.ContentBlockDelta(index=index, delta=_marked(event)), event="content_block_delta")
        return _event(wire.ContentBlockStart(index=index, content_block=_empty_block(event)))

    def _stop_block(self) -> bytes:
        if self._open is None:
            return b""
        self._open, index, signature = None, self._num_blocks - 1, b""
        if self._thoughts is not None:
            signed = wire.SignatureDelta(signature=self._thoughts.signature)
            signature = _event(wire.ContentBlockDelta(index=index, delta=signed))
            self._thoughts = None
        return signature + _event(wire.ContentBlockStop(index=index))


class Thoughts:
    """The text of a thinking block as its signature: a digest, for clients that keep no block without one.

    It vouches for nothing, and nobody checks it when it comes back.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, text: str) -> None:
        """More of the text."""
        self._digest.update(text.encode(errors="replace"))

    @property
    def signature(self) -> str:
        """Of all that was added."""
        return base64.b64encode(self._digest.digest()).decode()


def _event(shape: BaseModel) -> bytes:
    return sse.event(shape.type, shape.model_dump_json())  # type: ignore[attr-defined]


def _key(event: Event) -> BlockKey | None:
    """The block that an event belongs to; none if it adds nothing to any."""
    match event:
        case TextDelta():
            return ("text", 0) if event.text else None
        case ReasoningDelta():
            return ("thinking", 0) if event.text else None
        case ToolCallDelta():
            return ("tool_use", event.call)
        case _:
            return None


def _text(event: Delta) -> str:
    return event.arguments if isinstance(event, ToolCallDelta) else event.text


def _empty_block(event: Delta) -> wire.AnswerBlock:
    match event:
        case TextDelta():
            return wire.TextBlock()
        case ReasoningDelta():
            return wire.ThinkingBlock()
        case ToolCallDelta():
            return wire.ToolUseBlock(id=event.id or "", name=event.name or "")


def _marked(event: Delta) -> wire.TextDelta | wire.ThinkingDelta | wire.InputJsonDelta:
    match event:
        case TextDelta():
            return wire.TextDelta(text=MARK)
        case ReasoningDelta():
            return wire.ThinkingDelta(thinking=MARK)
        case ToolCallDelta():
            return wire.InputJsonDelta(partial_json=MARK)


def _blocks(events: Iterable[Event], show_reasoning: bool) -> list[wire.AnswerBlock]:
    """The blocks that the same events would open, fill and close in a stream."""
    deltas = [event for event in events if isinstance(event, Delta) and _key(event) is not None]
    return [_whole_block(list(run), show_reasoning) for _, run in groupby(deltas, key=_key)]


def _whole_block(run: list[Delta], show_reasoning: bool) -> wire.AnswerBlock:
    block, text = _empty_block(run[0]), "".join(map(_text, run))
    match block:
        case wire.TextBlock():
            return block.model_copy(update={"text": text})
        case wire.ThinkingBlock():
            thoughts = Thoughts()
            thoughts.add(text)
            shown = text if show_reasoning else ""
            return block.model_copy(update={"thinking": shown, "signature": thoughts.signature})
        case wire.ToolUseBlock():
            return block.model_copy(update={"input": _input(text)})


def _input(arguments: str) -> dict[str, Any]:
    """A tool's input must be an object: of a cut one, what SDKs make of the same pieces in a stream (case S9).

    What is none even so is kept under a name of its own.
    """
    try:
        value = parse_value(arguments or "{}")
    except InvalidJson:
        value = _cut_object(arguments)
    return value if isinstance(value, dict) else {"raw_arguments": arguments}


def _cut_object(arguments: str) -> Any:
    """What of an object is certain: a string or a name that has not ended is left out."""
    try:
        return from_json(arguments, allow_partial=True)
    except ValueError:
        return None


def _stop_reason(end: Finished) -> wire.StopReason:
    if end.reason == "stop" and end.stop_sequence is not None:
        return "stop_sequence"
    return _REASONS[end.reason]


def _usage_shape(usage: Usage) -> wire.Usage:
    thoughts = usage.reasoning_tokens
    return wire.Usage(
        input_tokens=usage.prompt_tokens - usage.cached_tokens,
        cache_read_input_tokens=usage.cached_tokens,
        output_tokens=usage.completion_tokens,
        output_tokens_details=wire.OutputTokensDetails(thinking_tokens=thoughts) if thoughts else None,
    )
