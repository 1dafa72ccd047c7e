"""One request's life, from its first byte to its last: where it is, what it met, and who may interrupt it.

Owns: the stages, times and findings that the log line and the metrics are made of, and its seat in Outstanding (case
L9). Does not own: what happens in a stage. Called by: api (opens, closes), forwarding (moves), admission (interrupts).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from cortex_contracts.inventory.clients import PriorityClass
from cortex_contracts.wire.errors import CortexError
from cortex_dialects.dialect import Dialect
from cortex_gateway.fleet.outstanding import Outstanding

if TYPE_CHECKING:
    from cortex_gateway.records.trace import Trace

UNKNOWN_MODEL = "unknown"
_BYTES_OF_A_TOKEN = 4
# No engine is asked.
_COUNTS_ONLY = frozenset({"/v1/messages/count_tokens", "/v1/responses/input_tokens", "/tokenize", "/detokenize"})


class Stage(StrEnum):
    """Where a request is. Transitions: NEXT."""

    WAITING = "waiting"  # for a decision, or for its model to be loaded
    ASKED = "asked"  # a neuron has it; nothing of the answer has gone to the client
    ANSWERING = "answering"
    DONE = "done"


NEXT = {
    Stage.WAITING: {Stage.ASKED, Stage.DONE},
    Stage.ASKED: {Stage.WAITING, Stage.ANSWERING, Stage.DONE},
    Stage.ANSWERING: {Stage.DONE},
    Stage.DONE: set[Stage](),
}


class Outcome(StrEnum):
    """How a request ended, as a metric's label."""

    OK = "ok"
    CLIENT_GONE = "client_gone"
    CLIENT_ERROR = "client_error"  # 4xx, ours or the neuron's
    SERVER_ERROR = "server_error"  # 5xx, ours or the neuron's
    BROKEN = "broken"  # failed after the answer had begun


_MAY_HAVE_COST = frozenset({Outcome.OK, Outcome.CLIENT_GONE, Outcome.BROKEN})


class IllegalMove(Exception):
    """A bug: a stage does not follow the other."""


class Usage(msgspec.Struct):
    """What the neuron says of a request in X-Cortex-Usage: events.Usage and the finish reason."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    finish_reason: str | None = None


class _Document(msgspec.Struct):
    """An OpenAI answer, as far as it counts."""

    usage: Usage | None = None


class Exchange:
    """One request. Not shared between tasks, but for `interrupt`."""

    __slots__ = (
        "_held", "_outstanding", "_reason", "_waiting", "account", "code", "dialect", "duration_s", "ended_in",
        "events", "first_content_s", "key", "limit_headers", "load_wait_s", "model", "neuron", "on_trial", "outcome",
        "path", "priority", "prompt_bytes", "request_id", "stage", "started", "status", "stream", "trace", "usage",
    )  # fmt: skip

    def __init__(self, request_id: str, dialect: Dialect, path: str, outstanding: Outstanding) -> None:
        self.request_id, self.dialect, self.path = request_id, dialect, path
        self.model, self.neuron, self.stream = UNKNOWN_MODEL, "", False
        self.key = ""  # the name of whose it is, once that is known; never the key itself
        self.priority: PriorityClass = "normal"
        self.account = 0  # the ledger's, while it has a seat there
        self.limit_headers: dict[str, str] = {}
        self.prompt_bytes = self.events = 0  # asked with, answered with so far
        self.stage = Stage.WAITING
        self.started = time.monotonic()
        self.status = 0
        self.outcome, self.code = Outcome.OK, ""
        self.on_trial = False  # its end says whether its neuron serves the model well
        self.first_content_s: float | None = None
        self.load_wait_s: float | None = None  # what it waited for its model, where that was not loaded
        self.duration_s = 0.0
        self.ended_in = Stage.WAITING  # the stage before DONE
        self.usage: Usage | None = None
        self.trace: Trace | None = None
        self._outstanding = outstanding
        self._held: tuple[str, str] | None = None
        self._waiting: asyncio.Task[object] | None = None
        self._reason: CortexError | None = None

    def move(self, stage: Stage) -> None:
        """Go to the next stage. Raises IllegalMove."""
        if stage not in NEXT[self.stage]:
            raise IllegalMove(f"{self.stage} -> {stage}")
        self.stage = stage

    def hold(self, neuron: str) -> None:
        """Take a seat on `neuron` in Outstanding, and give back the one held before."""
        self.release()
        self.neuron, self._held = neuron, (neuron, self.model)
        self._outstanding.take(self._held)

    def release(self) -> None:
        """Give the seat back."""
        if self._held is not None:
            self._outstanding.give_back(self._held)
            self._held = None

    def failed(self, status: int, code: str) -> None:
        """It ends in an error that the client is told; the first error counts."""
        if self.outcome is Outcome.OK:
            begun = self.stage is Stage.ANSWERING
            self.code = code
            self.outcome = Outcome.BROKEN if begun else Outcome.SERVER_ERROR if status >= 500 else Outcome.CLIENT_ERROR

    def client_gone(self) -> None:
        """Nobody waits for the answer any more."""
        if self.outcome is Outcome.OK:
            self.outcome = Outcome.CLIENT_GONE

    def content(self) -> None:
        """The first content of the answer passes by (case M1)."""
        self.first_content_s = time.monotonic() - self.started

    @contextmanager
    def waiting_for_load(self, neuron: str) -> Iterator[None]:
        """While inside, it waits for its model to be loaded there, however that ends; waits add up."""
        began = time.monotonic()
        try:
            with nullcontext() if self.trace is None else self.trace.load(self.model, neuron):
                yield
        finally:
            self.load_wait_s = (self.load_wait_s or 0.0) + time.monotonic() - began

    def learn_usage(self, text: bytes | str) -> None:
        """Take what the neuron counted; what cannot be read is left out."""
        try:
            self.usage = msgspec.json.decode(text, type=Usage)
        except (msgspec.DecodeError, msgspec.ValidationError):
            self.usage = None

    def learn_usage_of(self, document: bytes) -> None:
        """Take what an engine says in its answer itself."""
        try:
            self.usage = msgspec.json.decode(document, type=_Document).usage
        except (msgspec.DecodeError, msgspec.ValidationError):
            self.usage = None

    def tokens_spent(self) -> int:
        """What it has cost: as the neuron counted, or of an answer without counts (cut short, mostly) an estimate."""
        if self.usage is not None and self.usage.prompt_tokens:
            return self.usage.prompt_tokens + self.usage.completion_tokens
        asked = self.ended_in in (Stage.ASKED, Stage.ANSWERING) and self.path not in _COUNTS_ONLY
        asked = asked and self.outcome in _MAY_HAVE_COST
        return self.prompt_bytes // _BYTES_OF_A_TOKEN + self.events if asked else 0

    def close(self) -> None:
        """It is over."""
        self.release()
        self.duration_s = time.monotonic() - self.started
        self.ended_in = self.stage
        self.move(Stage.DONE)

    def interruptible(self) -> _Interruptible:
        """While inside, `interrupt` ends the wait with its error. For `with`, in the task that waits."""
        return _Interruptible(self)

    def interrupt(self, reason: CortexError) -> None:
        """End whatever it waits for with `reason`. Does nothing where it waits for nothing."""
        if self._waiting is not None and self._reason is None:
            self._reason = reason
            self._waiting.cancel()


class _Interruptible:
    """asyncio.timeout without a time, for a tenth of its price: every request waits twice."""

    __slots__ = ("_cancelling", "_exchange", "_task")

    def __init__(self, exchange: Exchange) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._exchange, self._task, self._cancelling = exchange, task, task.cancelling()

    def __enter__(self) -> None:
        self._exchange._reason, self._exchange._waiting = None, self._task

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        reason, self._exchange._waiting = self._exchange._reason, None
        if reason is not None and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise reason from None
