"""The one line that every request ends with, on every path (case S12). Called by: inference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cortex_contracts.wire.errors import CortexError
from cortex_neuron.inference.answer import Record
from cortex_serving import logs

if TYPE_CHECKING:
    from cortex_serving.spans import Span


@dataclass(slots=True)
class Outcome:
    """What is known of a request so far."""

    request_id: str
    dialect: str
    started: float  # event loop time
    model: str = ""
    stream: bool = False
    status: int = 200
    error: CortexError | None = None
    client_gone: bool = False
    record: Record = field(default_factory=Record)
    span: Span | None = None

    @property
    def name(self) -> str:
        """In a word: ok, client_gone, or the error's code."""
        if self.client_gone:
            return "client_gone"
        return self.error.code if self.error is not None else "ok"


def write(outcome: Outcome, now: float) -> None:
    """Log it."""
    record = outcome.record
    line = logs.info if outcome.error is None or outcome.error.status < 500 else logs.warning
    line(
        "request",
        request_id=outcome.request_id,
        model=outcome.model,
        dialect=outcome.dialect,
        stream=outcome.stream,
        status=outcome.status,
        finish_reason=record.finish_reason,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        cached_tokens=record.cached_tokens,
        queue_ms=round(record.queue_ms, 1),
        prefill_ms=round(record.prefill_ms, 1),
        decode_ms=round(record.decode_ms, 1),
        total_ms=round((now - outcome.started) * 1000, 1),
        client_gone=outcome.client_gone,
        code=outcome.error.code if outcome.error is not None else None,
        message=outcome.error.message if outcome.error is not None else None,
        **({"trace_id": outcome.span.trace_id} if outcome.span is not None else {}),
    )
