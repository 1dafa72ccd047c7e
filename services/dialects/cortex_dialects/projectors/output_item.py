"""One item of a response while it grows: the events that begin and end it, and what it is by then.

Owns: the three kinds of items that an answer has. Does not own: numbers of events (0 here) or their bytes. Called by:
responses.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel

from cortex_contracts.wire import responses_answer as wire
from cortex_contracts.wire.openai import ChatTokenLogprob
from cortex_dialects.events import ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta
from cortex_dialects.projectors.openai import token_logprobs

Delta = TextDelta | ReasoningDelta | ToolCallDelta


class OpenItem(ABC):
    """The item at `index` of an answer's output."""

    def __init__(self, item_id: str, index: int) -> None:
        self._id, self._index = item_id, index
        self._pieces: list[str] = []
        self._logprobs: list[TokenLogprob] = []

    def add(self, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> None:
        """More of it."""
        self._pieces.append(text)
        self._logprobs += logprobs

    @property
    def _text(self) -> str:
        return "".join(self._pieces)

    @abstractmethod
    def item(self, status: wire.Status) -> wire.OutputItem:
        """What it is by now."""

    @abstractmethod
    def begun(self) -> Iterator[BaseModel]:
        """The events of its beginning."""

    @abstractmethod
    def more(self, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> wire.DeltaEvent:
        """The event of a piece of it."""

    @abstractmethod
    def ended(self, status: wire.Status) -> Iterator[BaseModel]:
        """The events of its end."""

    def _item_event(
        self, kind: Literal["response.output_item.added", "response.output_item.done"], item: wire.OutputItem
    ) -> wire.ItemEvent:
        return wire.ItemEvent(type=kind, output_index=self._index, item=item, sequence_number=0)


class _ItemWithPart(OpenItem):
    """One whose text is the text of its one part."""

    _delta: Literal["response.output_text.delta", "response.reasoning_text.delta"]
    _done: Literal["response.output_text.done", "response.reasoning_text.done"]

    @abstractmethod
    def _empty(self) -> wire.OutputMessage | wire.OutputReasoning: ...

    @abstractmethod
    def _part(self) -> wire.OutputTextPart | wire.ReasoningPart: ...

    @abstractmethod
    def _told(self, logprobs: list[TokenLogprob] | tuple[TokenLogprob, ...]) -> list[ChatTokenLogprob] | None: ...

    def item(self, status: wire.Status) -> wire.OutputItem:
        return self._empty().model_copy(update={"status": status, "content": [self._part()]})

    def begun(self) -> Iterator[BaseModel]:
        yield self._item_event("response.output_item.added", self._empty())
        yield self._part_event("response.content_part.added")

    def more(self, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> wire.DeltaEvent:
        return wire.DeltaEvent(
            type=self._delta,
            item_id=self._id,
            output_index=self._index,
            content_index=0,
            delta=text,
            logprobs=self._told(logprobs),
            sequence_number=0,
        )

    def ended(self, status: wire.Status) -> Iterator[BaseModel]:
        yield wire.TextDone(
            type=self._done,
            item_id=self._id,
            output_index=self._index,
            text=self._text,
            logprobs=self._told(self._logprobs),
            sequence_number=0,
        )
        yield self._part_event("response.content_part.done")
        yield self._item_event("response.output_item.done", self.item(status))

    def _part_event(self, kind: Literal["response.content_part.added", "response.content_part.done"]) -> wire.PartEvent:
        return wire.PartEvent(
            type=kind, item_id=self._id, output_index=self._index, part=self._part(), sequence_number=0
        )


class MessageItem(_ItemWithPart):
    """The answer's text."""

    _delta, _done = "response.output_text.delta", "response.output_text.done"

    def __init__(self, name: str, index: int) -> None:
        super().__init__(f"msg_{name}_{index}", index)

    def _empty(self) -> wire.OutputMessage:
        return wire.OutputMessage(id=self._id)

    def _part(self) -> wire.OutputTextPart:
        return wire.OutputTextPart(text=self._text, logprobs=token_logprobs(self._logprobs))

    def _told(self, logprobs: list[TokenLogprob] | tuple[TokenLogprob, ...]) -> list[ChatTokenLogprob]:
        return token_logprobs(logprobs)


class ReasoningItem(_ItemWithPart):
    """The model's thoughts (case S4)."""

    _delta, _done = "response.reasoning_text.delta", "response.reasoning_text.done"

    def __init__(self, name: str, index: int) -> None:
        super().__init__(f"rs_{name}_{index}", index)

    def _empty(self) -> wire.OutputReasoning:
        return wire.OutputReasoning(id=self._id)

    def _part(self) -> wire.ReasoningPart:
        return wire.ReasoningPart(text=self._text)

    def _told(self, logprobs: list[TokenLogprob] | tuple[TokenLogprob, ...]) -> None:
        return None


class CallItem(OpenItem):
    """A call of a function of the client's."""

    def __init__(self, name: str, index: int, call_id: str, function: str) -> None:
        super().__init__(f"fc_{name}_{index}", index)
        self._call_id, self._function = call_id, function

    def item(self, status: wire.Status) -> wire.OutputCall:
        return wire.OutputCall(
            id=self._id, status=status, call_id=self._call_id, name=self._function, arguments=self._text
        )

    def begun(self) -> Iterator[BaseModel]:
        yield self._item_event("response.output_item.added", self.item("in_progress"))

    def more(self, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> wire.DeltaEvent:
        return wire.DeltaEvent(
            type="response.function_call_arguments.delta",
            item_id=self._id,
            output_index=self._index,
            delta=text,
            sequence_number=0,
        )

    def ended(self, status: wire.Status) -> Iterator[BaseModel]:
        yield wire.ArgumentsDone(
            item_id=self._id,
            output_index=self._index,
            name=self._function,
            arguments=self._text,
            sequence_number=0,
        )
        yield self._item_event("response.output_item.done", self.item(status))


def item_for(event: Delta, name: str, index: int) -> OpenItem:
    """The item that an event begins. `name` makes its id one of a kind."""
    match event:
        case TextDelta():
            return MessageItem(name, index)
        case ReasoningDelta():
            return ReasoningItem(name, index)
        case ToolCallDelta():
            return CallItem(name, index, event.id or "", event.name or "")
