"""A neuron's answer while it comes in: its head, then its body in pieces, read no faster than they are taken.

Owns: the wait for more, and its limit: silence for `idle_s`, never a total time (case S2). Does not own: the bytes on
the wire (fleet/connection.py). Called by: stream.py, translated.py, forwarder.py, attempts.py.

    UpstreamFailure
      CannotConnect   nobody listens, or not in time
      Lost            the connection ended before the answer, or what came is not HTTP
      Silent          nothing came for `idle_s`
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

_MOST_UNREAD = 256 * 1024  # bytes; with more, nothing is read from the neuron until they are taken
_EARLY_S = 0.001  # a timer may come so early, by rounding: to set it again for what is left would be to spin


class UpstreamFailure(Exception):
    """A neuron gave no answer, or not all of it."""


class CannotConnect(UpstreamFailure):
    pass


class Lost(UpstreamFailure):
    pass


class Silent(UpstreamFailure):
    pass


class Source(Protocol):
    """Where an answer comes from."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def abort(self) -> None: ...


class Response:
    """One answer. Whoever takes it reads it to its end or closes it; who is cancelled while it waits has closed it."""

    __slots__ = (
        "_failure", "_heard_at", "_idle_s", "_loop", "_num_unread", "_paused", "_pieces", "_source", "_take", "_timer",
        "_waiter", "complete", "headers", "status",
    )  # fmt: skip

    def __init__(self, source: Source, idle_s: float | None) -> None:
        self.status, self.headers, self.complete = 0, dict[str, str](), False  # names of headers in lower case
        self._source, self._idle_s = source, idle_s
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._num_unread, self._paused = 0, False
        self._failure: UpstreamFailure | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._take: Callable[[bytes], bool] | None = None
        self._heard_at = self._loop.time()
        self._timer = self._loop.call_later(idle_s, self._check_silence) if idle_s is not None else None

    @property
    def content_type(self) -> str:
        """Without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def all_taken(self) -> bool:
        """It is complete, and nothing of it is left."""
        return self.complete and not self._pieces

    async def head(self) -> None:
        """Wait for `status` and `headers`. Raises Lost, Silent."""
        while not self.status:
            await self._more()

    async def piece(self) -> bytes:
        """What has come since the last one; b"" at the end. Raises Lost, Silent."""
        while not self._pieces:
            if self.complete:
                return b""
            await self._more()
        return self._taken()

    async def pour(self, take: Callable[[bytes], bool]) -> None:
        """Give each piece to `take` the moment it comes, until that says False or there are no more.

        What `piece` does, without a turn of the event loop and of every waiting coroutine for each piece. Raises Lost,
        Silent, and what `take` raises.
        """
        while not self.all_taken:
            if self._pieces:
                if not take(self._taken()):
                    return
            else:
                self._take = take
                try:
                    await self._more()
                    if self._take is None:
                        return
                finally:
                    self._take = None

    async def read(self) -> bytes:
        """The rest of the body. Raises Lost, Silent."""
        pieces = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Take no more of it: where it is not over, its connection is cut, which tells the neuron (case S8)."""
        if not self.complete and self._failure is None:
            self._fail(Lost("closed"))
            self._source.abort()

    # ---- told by the connection

    def came(self, piece: bytes) -> None:
        """More of the body."""
        self._pieces.append(piece)
        self._num_unread += len(piece)
        if self._num_unread > _MOST_UNREAD and not self._paused:
            self._paused = True
            self._source.pause()

    def ended(self) -> None:
        """That was all."""
        self.complete = True
        self._stop_timer()
        if self._paused:
            self._paused = False
            self._source.resume()

    def lost(self, reason: str) -> None:
        """No more will come."""
        self._fail(Lost(reason))

    def wake(self) -> None:
        """Something is new."""
        if self._waiter is None or self._waiter.done():
            return
        if self._take is not None and self._pieces:
            try:
                goes_on = self._take(self._taken())
            except Exception as failure:  # noqa: BLE001  for the one that waits
                self._waiter.set_exception(failure)
                return
            if not goes_on:
                self._take = None
            elif not self.complete and self._failure is None:
                self._heard_at = self._loop.time()
                return
        self._waiter.set_result(None)

    # ----

    def _taken(self) -> bytes:
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._num_unread = 0
        if self._paused:
            self._paused = False
            self._source.resume()
        return data

    def _fail(self, failure: UpstreamFailure) -> None:
        self._failure = failure
        self._stop_timer()
        self.wake()

    async def _more(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._heard_at = self._loop.time()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiter = None

    def _check_silence(self) -> None:
        assert self._idle_s is not None
        now = self._loop.time()
        since = self._heard_at if self._waiter is not None else now  # a slow reader is not a silent neuron
        left_s = since + self._idle_s - now
        if left_s < _EARLY_S:
            self._fail(Silent(f"nothing came for {self._idle_s:g} s"))
            self._source.abort()
        else:
            self._timer = self._loop.call_later(left_s, self._check_silence)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
