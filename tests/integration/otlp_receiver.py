"""A collector of traces: OTLP over HTTP on a loopback port, which keeps what it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True)
class Sent:
    """One span as it arrived; times in seconds since 1970."""

    service: str
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    began: float
    ended: float
    attributes: dict[str, Any]
    failed: bool


@dataclass
class Receiver:
    """Everything that has come in so far."""

    url: str = ""
    status: int = 200
    requests: int = 0
    spans: list[Sent] = field(default_factory=list)

    def of(self, trace_id: str) -> list[Sent]:
        """One trace's spans."""
        return [span for span in self.spans if span.trace_id == trace_id]

    async def take(self, request: web.Request) -> web.Response:
        """POST /v1/traces"""
        self.requests += 1
        if self.status == 200:
            self.spans += _spans(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response(status=self.status, content_type="application/x-protobuf")


def _spans(sent: ExportTraceServiceRequest) -> list[Sent]:
    return [
        Sent(
            service=_values(of_service.resource.attributes)["service.name"],
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            name=span.name,
            began=span.start_time_unix_nano / 1e9,
            ended=span.end_time_unix_nano / 1e9,
            attributes=_values(span.attributes),
            failed=span.status.code == Status.STATUS_CODE_ERROR,
        )
        for of_service in sent.resource_spans
        for scope in of_service.scope_spans
        for span in scope.spans
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    receiver = Receiver()
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/v1/traces", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()
