"""What every projector does. A stream is opening, then event and keepalive as they come, then closing or failure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from cortex_contracts.wire.errors import CortexError
from cortex_dialects.events import Event


class Projector(Protocol):
    """One request's events as bytes. Empty bytes mean that there is nothing to send."""

    def opening(self) -> bytes:
        """Sent at once, before there is any event (case S7)."""

    def event(self, event: Event) -> bytes:
        """One event. A Failed is what `failure` makes of its error."""

    def keepalive(self) -> bytes:
        """Sent while nothing else is (case S3)."""

    def failure(self, error: CortexError) -> bytes:
        """The end of a stream that broke; `closing` does not follow (case S6)."""

    def closing(self) -> bytes:
        """The end of a stream whose choices have all finished; else a failure, so that no cut answer looks whole."""

    def document(self, events: Iterable[Event]) -> bytes:
        """All events as the answer of a request that is not streamed (case S9). Raises the error of a Failed."""
