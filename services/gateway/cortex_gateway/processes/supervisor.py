"""The process above several workers: it binds, forks them, starts again what dies, and stops all in order.

Owns: the sockets, the workers' lives, and the signals to all of them. Does not own: what a worker does (gateway.py) or
what they share (workers.py). Called by: cli.py, where there is more than one worker.

Each worker has sockets of its own on the one port (SO_REUSEPORT), so that the kernel spreads connections by their
addresses; from one socket for all, whoever wakes first takes a whole burst. All of them stay open here: what waits in a
dead worker's queue is taken by the worker that comes after it, and no connection is refused meanwhile. Workers are
forked from what is imported already, so the next one is there in milliseconds; for that there is no thread and no event
loop in this process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cortex_contracts.inventory.files import ConfigInvalid
from cortex_gateway.config import Config, address
from cortex_gateway.processes.workers import Worker, Workers
from cortex_serving import logs
from cortex_serving.server import bind

_STOP = (signal.SIGTERM, signal.SIGINT)
_HEARD = (*_STOP, signal.SIGHUP, signal.SIGCHLD)
_PR_SET_PDEATHSIG = 1
_LAST_WORDS_S = 6.0  # after drain_timeout_s: a worker's error events and the end of its connections
_IDLE_S = 3600.0
_FIRST_PAUSE_S = 0.1
START_LIMIT = 5
START_LIMIT_S = 60.0

Work = Callable[[Config, Worker, Sequence[socket.socket]], int]


def pause_s(deaths: Sequence[float], now: float) -> float | None:
    """How long to wait before the next start, from when the workers before it died; None: not again.

    The first is at once, then 0.1 s, doubled each time; at START_LIMIT deaths within START_LIMIT_S it is given up.
    """
    recent = sum(1 for died in deaths if now - died < START_LIMIT_S)
    if recent >= START_LIMIT:
        return None
    return 0.0 if recent <= 1 else float(_FIRST_PAUSE_S * 2 ** (recent - 2))


@dataclass(slots=True)
class _Seat:
    """One worker's place: its sockets, and whoever sits there. `pid` is 0 while nobody does."""

    number: int
    sockets: list[socket.socket]
    pid: int = 0
    deaths: list[float] = field(default_factory=list)
    start_at: float = 0.0


def run(config: Config, read_again: Callable[[], Config], work: Work) -> int:
    """Run `work` in as many workers as the configuration says until SIGTERM; the exit code. Raises CannotListen."""
    count = config.settings.gateway.workers
    with tempfile.TemporaryDirectory(prefix="cortex-gateway-") as folder:
        return _Supervisor(config, read_again, work, Workers(count, Path(folder))).run()


class _Supervisor:
    """Running until `_stop_by` is set, then stopping; what it exits with is `_exit_code`."""

    def __init__(self, config: Config, read_again: Callable[[], Config], work: Work, workers: Workers) -> None:
        self._config, self._read_again, self._work, self._workers = config, read_again, work, workers
        self._seats = _bound(config, workers.count)
        self._stop_by: float | None = None
        self._exit_code = 0

    def run(self) -> int:
        """Start all; return when all have ended."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        logs.info("supervising", workers=len(self._seats))
        while self._stop_by is None or any(seat.pid for seat in self._seats):
            self._start_due()
            heard = signal.sigtimedwait(_HEARD, self._patience_s())
            if heard is not None and heard.si_signo in _STOP:
                self._stop()
            elif heard is not None and heard.si_signo == signal.SIGHUP:
                self._reload()
            self._bury()
            if self._stop_by is not None and time.monotonic() >= self._stop_by:
                self._end()
        return self._exit_code

    def _patience_s(self) -> float:
        due = [self._stop_by] if self._stop_by is not None else [seat.start_at for seat in self._seats if not seat.pid]
        return max(0.0, min(due, default=time.monotonic() + _IDLE_S) - time.monotonic())

    def _start_due(self) -> None:
        now = time.monotonic()
        for seat in self._seats:
            if self._stop_by is None and not seat.pid and seat.start_at <= now:
                self._fork(seat)

    def _fork(self, seat: _Seat) -> None:
        parent = os.getpid()
        seat.pid = os.fork()
        if seat.pid:
            return
        code = 1
        try:
            _end_with(parent)
            for other in self._seats:
                if other is not seat:
                    _close(other)
            code = self._work(self._config, self._workers.seat(seat.number), seat.sockets)
        except BaseException as failure:  # noqa: BLE001  nothing of a worker may run on in the supervisor's frames
            logs.error("worker_failed", exception=failure, worker=seat.number)
        finally:
            os._exit(code)

    def _bury(self) -> None:
        while any(seat.pid for seat in self._seats):
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            seat = next((seat for seat in self._seats if seat.pid == pid), None)
            if seat is not None:
                seat.pid = 0
                self._ended(seat, pid, os.waitstatus_to_exitcode(status))

    def _ended(self, seat: _Seat, pid: int, code: int) -> None:
        self._workers.seat(seat.number)  # its requests are over
        if self._stop_by is not None:
            _close(seat)  # or the kernel would go on to send connections to where nobody is
            self._exit_code = self._exit_code or min(1, abs(code))
            return
        now = time.monotonic()
        seat.deaths = [*seat.deaths[1 - START_LIMIT :], now]
        pause = pause_s(seat.deaths, now)
        logs.error("worker_died", worker=seat.number, pid=pid, exit_code=code, starts_again_in_s=pause)
        if pause is None:
            logs.error("gave_up", worker=seat.number, deaths=START_LIMIT, within_s=START_LIMIT_S)
            self._exit_code = 1
            self._stop()
        else:
            seat.start_at = now + pause

    def _reload(self) -> None:
        """Workers that are forked from now on have the new configuration. Those that run read it themselves, say what
        is wrong with it, and go on in a new access log in any case."""
        with suppress(ConfigInvalid):
            self._config = self._read_again()
        self._tell_all(signal.SIGHUP)

    def _stop(self) -> None:
        if self._stop_by is None:
            self._stop_by = time.monotonic() + self._config.settings.gateway.drain_timeout_s + _LAST_WORDS_S
            for seat in self._seats:
                if not seat.pid:
                    _close(seat)
        self._tell_all(signal.SIGTERM)

    def _end(self) -> None:
        logs.error("workers_killed", workers=[seat.number for seat in self._seats if seat.pid])
        self._stop_by = time.monotonic() + _IDLE_S
        self._tell_all(signal.SIGKILL)

    def _tell_all(self, number: signal.Signals) -> None:
        for seat in self._seats:
            if seat.pid:
                os.kill(seat.pid, number)


def _bound(config: Config, count: int) -> list[_Seat]:
    settings = config.settings.gateway
    addresses = [address(settings.listen), address(settings.metrics_listen)]
    for each in addresses:
        bind(*each).close()  # a shared socket would not notice another gateway on the port
    return [_Seat(number, [bind(*each, shared=True) for each in addresses]) for number in range(count)]


def _close(seat: _Seat) -> None:
    for each in seat.sockets:
        each.close()


def _end_with(parent: int) -> None:
    """Stop when the supervisor is no more, however it ended."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
