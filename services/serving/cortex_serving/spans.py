"""Spans by OpenTelemetry, sent in batches as OTLP over HTTP from a thread of their own.

Owns: how a trace comes in and goes on (W3C traceparent), the sending, and what is said when that fails: a line a minute
and nothing to a request. Does not own: which spans there are (each service says). Imported only where traces are
wanted (tracing.py).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cortex_serving import logs

if TYPE_CHECKING:
    from opentelemetry import trace

_EXPORT_TIMEOUT_S = 5.0
_FLUSH_S = 3.0
_COMPLAINT_INTERVAL_S = 60.0
_PROPAGATOR = TraceContextTextMapPropagator()

Value = str | int | float | bool | list[str]


class Tracer:
    """One service's spans on their way to a collector."""

    def __init__(self, endpoint: str, service: str, instance: str) -> None:
        names = {"service.name": service, "service.instance.id": instance, "service.version": version("cortex")}
        self._provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("cortex")
        _log_seldom(endpoint)

    def serve(self, name: str, headers: Mapping[str, str]) -> Span:
        """The span of a request that has come in; it goes on with the caller's trace where there is one."""
        caller = {key: headers[key] for key in ("traceparent", "tracestate") if key in headers}
        parent = _PROPAGATOR.extract(caller) if caller else None
        return Span(self._tracer, self._tracer.start_span(name, parent, SpanKind.SERVER))

    async def stop(self) -> None:
        """Send what is left, but be done within _FLUSH_S."""
        # A thread that ends with the process: one of the loop's own would be waited for, however long it sends.
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, _FLUSH_S)


class Span:
    """Something that takes time. Times are nanoseconds since 1970; None is now."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer, self._span = tracer, span

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return format_trace_id(self._span.get_span_context().trace_id)

    def headers(self) -> dict[str, str]:
        """What a request within this span carries, so that its receiver goes on with the trace."""
        carried: dict[str, str] = {}
        _PROPAGATOR.inject(carried, set_span_in_context(self._span))
        return carried

    def inside(self, name: str, began_ns: int | None = None) -> Span:
        """A span within this one."""
        return self._child(name, SpanKind.INTERNAL, began_ns)

    def asking(self, name: str) -> Span:
        """A request to another service, within this span."""
        return self._child(name, SpanKind.CLIENT, None)

    def end(self, attributes: Mapping[str, Value], error: str = "", ended_ns: int | None = None) -> None:
        """It is over; `error` says in a word why it went wrong, where it did."""
        self._span.set_attributes(attributes)
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(ended_ns)

    def _child(self, name: str, kind: SpanKind, began_ns: int | None) -> Span:
        parent = set_span_in_context(self._span)
        return Span(self._tracer, self._tracer.start_span(name, parent, kind, start_time=began_ns))


def _log_seldom(endpoint: str) -> None:
    library = logging.getLogger("opentelemetry")
    library.handlers = [_Seldom(endpoint)]
    library.propagate = False


class _Seldom(logging.Handler):
    """What OpenTelemetry complains of, a line a minute: an endpoint that is down would fill the log."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(logging.WARNING)
        self._endpoint = endpoint
        self._quiet_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _COMPLAINT_INTERVAL_S
            logs.warning("traces_not_sent", otlp_endpoint=self._endpoint, reason=record.getMessage())
