"""Events gathered into whole answers, for requests that are not streamed (case S9).

Called by: projectors. Raises the error of a Failed, and EngineFailed when the events end before the answer does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cortex_contracts.wire.errors import EngineFailed
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


def cut_short() -> EngineFailed:
    """The error of a stream that stops without an end."""
    return EngineFailed("The answer ended before it was complete")


@dataclass(slots=True)
class CollectedCall:
    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class CollectedChoice:
    """One choice, whole."""

    text: str = ""
    reasoning: str = ""
    calls: dict[int, CollectedCall] = field(default_factory=dict)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "stop"
    stop_sequence: str | None = None


def collect(events: Iterable[Event], num_choices: int) -> tuple[list[CollectedChoice], Usage]:
    """The choices by index, and the usage of all."""
    choices = [CollectedChoice() for _ in range(num_choices)]
    unfinished = set(range(num_choices))
    usage = None
    for event in events:
        match event:
            case Failed():
                raise event.error
            case Usage():
                usage = event
            case Finished():
                unfinished.discard(event.index)
                choices[event.index].finish_reason = event.reason
                choices[event.index].stop_sequence = event.stop_sequence
            case _:
                _add(choices[event.index], event)
    if unfinished or usage is None:
        raise cut_short()
    return choices, usage


def _add(choice: CollectedChoice, delta: TextDelta | ReasoningDelta | ToolCallDelta) -> None:
    match delta:
        case TextDelta():
            choice.text += delta.text
            choice.logprobs += delta.logprobs
            choice.token_ids += delta.token_ids
        case ReasoningDelta():
            choice.reasoning += delta.text
        case ToolCallDelta():
            call = choice.calls.setdefault(delta.call, CollectedCall(delta.id or "", delta.name or ""))
            call.arguments += delta.arguments
