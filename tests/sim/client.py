"""A client of a simulated gateway: one request, handed to the gateway's own handler, and a judgement of what came back.

Owns: what of Sanic's Request the handler reads, and the invariants of one request: exactly one answer, whole or with an
error that says why, within its bound (case S6: never cut silently). Called by: simulation.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from sanic import HTTPResponse, Request
from tests.sim.witness import Witness

from cortex_contracts.wire.errors import by_code
from cortex_gateway.api.inference import Inference
from cortex_gateway.catalogue import Catalogue

PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. A client without patience waits until it is answered."""

    number: int
    model: str
    stream: bool = False
    max_tokens: int = 4
    patience_s: float | None = None
    key: str = ""

    def body(self) -> bytes:
        """As a client sends it."""
        asked: dict[str, Any] = {"model": self.model, "stream": self.stream, "max_tokens": self.max_tokens}
        return msgspec.json.encode({**asked, "messages": [{"role": "user", "content": "hello"}]})


class _Sink:
    """Where a stream goes."""

    def __init__(self) -> None:
        self.received = bytearray()

    async def send(self, data: bytes | str | None = None, end_stream: bool | None = None) -> None:
        assert not end_stream, "nobody sends this"
        self.received += data.encode() if isinstance(data, str) else data or b""

    async def eof(self) -> None:
        """The handler may say so itself."""


class SimRequest:
    """What the handler reads of a request."""

    def __init__(self, question: Question) -> None:
        self.path, self.method, self.body = PATH, "POST", question.body()
        self.headers = {"content-type": "application/json", "x-request-id": f"sim-{question.number}"}
        if question.key:
            self.headers["authorization"] = f"Bearer {question.key}"
        self.ctx = SimpleNamespace()
        self.app = SimpleNamespace(config=None)  # asked for limits of what is read, and nothing is read
        self.transport = None
        self.sinks: list[_Sink] = []

    async def respond(self, **_: Any) -> _Sink:
        """Begin a stream."""
        self.sinks.append(_Sink())
        return self.sinks[-1]


async def put(question: Question, handler: Inference, witness: Witness, catalogue: Callable[[], Catalogue]) -> str:
    """Ask, and judge what comes. Returns the outcome: "ok", an error's code, "broken <code>", or "client_gone"."""
    request, before = SimRequest(question), catalogue()
    work = asyncio.ensure_future(handler(cast(Request, request)))
    try:
        done, _ = await asyncio.wait({work}, timeout=question.patience_s)
        if not done:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            return "client_gone"
    finally:
        work.cancel()
    response, sinks = work.result(), request.sinks
    witness.check(
        "exactly one answer", len(sinks) + (response is not None) == 1,
        lambda: f"{question}: {len(sinks)} streams and {response}",
    )  # fmt: skip
    outcome = _of_stream(question, bytes(sinks[0].received)) if sinks else _of_document(question, response)
    witness.check("an answer is whole or says why", not outcome.startswith("!"), lambda: f"{question}: {outcome}")
    # Where the gateway has been told of another catalogue meanwhile, either answer is right.
    lost = outcome == "model_not_found" and question.model in before.models and catalogue() is before
    witness.check("404 only for what nobody declares", not lost, lambda: f"{question}")
    return outcome


def _of_document(question: Question, response: HTTPResponse | None) -> str:
    if response is None:
        return "! no answer"
    body = msgspec.json.decode(response.body or b"{}")
    if response.status == 200:
        return "ok" if body.get("model") == question.model else f"! another's answer: {body}"
    code = body.get("error", {}).get("code")
    kind = by_code(code)
    if kind is None or response.status != kind.status or code == "internal_error":
        return f"! {response.status} {body}"
    if response.status == 503 and "retry-after" not in {name.lower() for name in response.headers}:
        return f"! 503 {code} without Retry-After"
    return str(code)


def _of_stream(question: Question, received: bytes) -> str:
    events = [each for each in received.split(b"\n\n") if each.strip() and not each.startswith(b":")]
    data = [each.removeprefix(b"data: ") for each in events]
    tokens, last = data[:-1], data[-1] if data else b""
    contents = [msgspec.json.decode(each).get("choices", [{}])[0].get("delta", {}).get("content") for each in tokens]
    if contents != [str(number) for number in range(len(contents))]:
        return f"! tokens are missing: {received!r}"
    if last == b"[DONE]":
        return "ok" if len(contents) == question.max_tokens else f"! cut short: {received!r}"
    try:
        code = msgspec.json.decode(last)["error"]["code"]
    except (msgspec.DecodeError, KeyError):
        return f"! neither end nor error: {received!r}"
    known = by_code(code) is not None and code != "internal_error"
    return f"broken {code}" if known else f"! {last!r}"
