"""One request's spans at the neuron: its own, and the engine's queue, prefill and decode within it.

Owns: their names and attributes, by OpenTelemetry's conventions for generative AI where those have one. Does not own:
sending them (cortex_serving.spans). The engine's are made at the end, from the times it has said it took. Called by:
inference.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cortex_neuron.api.request_log import Outcome

if TYPE_CHECKING:
    from cortex_serving.spans import Span, Value


def end(span: Span, outcome: Outcome, now: float) -> None:
    """The request has ended; `now` is event loop time."""
    record = outcome.record
    if record.submitted_at is not None and record.computed:
        at_ns = time.time_ns() - _ns(now - record.submitted_at)
        for name, took_ms in (("queue", record.queue_ms), ("prefill", record.prefill_ms), ("decode", record.decode_ms)):
            phase = span.inside(name, at_ns)
            at_ns += _ns(took_ms / 1000)
            phase.end({}, ended_ns=at_ns)
    fault = outcome.error is not None and outcome.error.status >= 500
    span.end(dict(_attributes(outcome)), outcome.name if fault else "")


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _attributes(outcome: Outcome) -> Iterator[tuple[str, Value]]:
    record = outcome.record
    yield "http.request.method", "POST"
    yield "http.response.status_code", outcome.status
    yield "gen_ai.request.model", outcome.model
    yield "gen_ai.request.stream", outcome.stream
    yield "gen_ai.usage.input_tokens", record.prompt_tokens
    yield "gen_ai.usage.output_tokens", record.completion_tokens
    yield "gen_ai.usage.cache_read.input_tokens", record.cached_tokens
    if record.finish_reason is not None:
        yield "gen_ai.response.finish_reasons", [record.finish_reason]
    yield "cortex.request_id", outcome.request_id
    yield "cortex.outcome", outcome.name
