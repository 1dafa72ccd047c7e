"""One request's spans at the gateway: its own, its waits for a load, and each attempt at a neuron.

Owns: their names and attributes, by OpenTelemetry's conventions for HTTP and generative AI where those have one. Does
not own: sending them (cortex_serving.spans). Called by: api/inference.py (begins, ends), forwarding/attempts.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cortex_gateway.exchange import Exchange, Outcome

if TYPE_CHECKING:
    from cortex_serving.spans import Span, Tracer, Value

_OPERATIONS = {"/v1/completions": "text_completion"}
_FAULTS = frozenset({Outcome.SERVER_ERROR, Outcome.BROKEN})


class Trace:
    """Begun when the request has come in; at most one attempt is open at a time."""

    def __init__(self, tracer: Tracer, path: str, headers: Mapping[str, str]) -> None:
        self._span = tracer.serve(f"POST {path}", headers)
        self.trace_id = self._span.trace_id
        self._attempt: Span | None = None
        self._neuron = ""

    def attempt(self, neuron: str) -> dict[str, str]:
        """A neuron is asked; the headers to ask it with."""
        self._attempt, self._neuron = self._span.asking(f"ask {neuron}"), neuron
        return self._attempt.headers()

    def attempt_failed(self, reason: str) -> None:
        """It has not answered, or not with what was asked."""
        self._end_attempt(reason)

    @contextmanager
    def load(self, model: str, neuron: str) -> Iterator[None]:
        """While inside, the request waits for its model."""
        span, error = self._span.inside(f"load {model}"), "interrupted"
        try:
            yield
            error = ""
        finally:
            span.end({"cortex.neuron": neuron, "gen_ai.request.model": model}, error)

    def end(self, exchange: Exchange) -> None:
        """The request is over."""
        fault = (exchange.code or exchange.outcome.value) if exchange.outcome in _FAULTS else ""
        self._end_attempt(fault or ("client_gone" if exchange.outcome is Outcome.CLIENT_GONE else ""))
        self._span.end(dict(_attributes(exchange)), fault)

    def _end_attempt(self, error: str) -> None:
        if self._attempt is not None:
            self._attempt.end({"cortex.neuron": self._neuron}, error)
            self._attempt = None


def _attributes(exchange: Exchange) -> Iterator[tuple[str, Value]]:
    yield "http.request.method", "POST"
    yield "url.path", exchange.path
    yield "http.response.status_code", exchange.status
    yield "gen_ai.operation.name", _OPERATIONS.get(exchange.path, "chat")
    yield "gen_ai.provider.name", "cortex"
    yield "gen_ai.request.model", exchange.model
    yield "gen_ai.request.stream", exchange.stream
    yield "cortex.request_id", exchange.request_id
    yield "cortex.outcome", exchange.outcome.value
    if exchange.first_content_s is not None:
        yield "gen_ai.response.time_to_first_chunk", exchange.first_content_s
    if (usage := exchange.usage) is not None:
        yield "gen_ai.usage.input_tokens", usage.prompt_tokens
        yield "gen_ai.usage.output_tokens", usage.completion_tokens
        yield "gen_ai.usage.cache_read.input_tokens", usage.cached_tokens
        if usage.finish_reason:
            yield "gen_ai.response.finish_reasons", [usage.finish_reason]
