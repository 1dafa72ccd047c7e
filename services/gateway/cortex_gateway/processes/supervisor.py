"""The process above several workers: it forks them, starts again what dies, and stops or replaces all in order.

Owns: the workers' lives, and the signals to all of them. Does not own: what a worker does (gateway.py), what they share
(workers.py) or whose sockets are whose (sockets.py). Called by: start.py, where there is more than one worker.

The sockets of all stay open here: what waits in a dead worker's queue is taken by the worker that comes after it, and
no connection is refused meanwhile. Workers are forked from what is imported already, so the next one is there in
milliseconds; for that there is no thread and no event loop in this process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cortex_contracts.inventory.files import ConfigInvalid
from cortex_gateway.config import Config
from cortex_gateway.processes.handover import LOOK_S, Handover
from cortex_gateway.processes.predecessor import Predecessor
from cortex_gateway.processes.sockets import Sockets, bound, descriptors
from cortex_gateway.processes.workers import Worker, Workers
from cortex_serving import logs
from cortex_serving.server import RETIREMENT_S

_STOP = (signal.SIGTERM, signal.SIGINT)
_HEARD = (*_STOP, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)
_PR_SET_PDEATHSIG = 1
_LAST_WORDS_S = 6.0  # after drain_timeout_s: a worker's error events and the end of its connections
_IDLE_S = 3600.0
_FIRST_PAUSE_S = 0.1
START_LIMIT = 5
START_LIMIT_S = 60.0

Work = Callable[[Config, Worker, Sockets], int]


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
    sockets: Sockets
    pid: int = 0
    deaths: list[float] = field(default_factory=list)
    start_at: float = 0.0


def run(config: Config, read_again: Callable[[], Config], work: Work, predecessor: Predecessor) -> int:
    """Run `work` in as many workers as the configuration says until SIGTERM; the exit code. Raises CannotListen."""
    count = config.settings.gateway.workers
    with tempfile.TemporaryDirectory(prefix="cortex-gateway-") as folder:
        workers = Workers(count, Path(folder))
        workers.draining = predecessor.draining
        return _Supervisor(config, read_again, work, workers, predecessor).run()


class _Supervisor:
    """Running until `_stop_by` is set, then stopping; what it exits with is `_exit_code`."""

    def __init__(
        self,
        config: Config,
        read_again: Callable[[], Config],
        work: Work,
        workers: Workers,
        predecessor: Predecessor,
    ) -> None:
        self._config, self._read_again, self._work, self._workers = config, read_again, work, workers
        settings = config.settings.gateway
        sockets = bound(settings, predecessor)
        self._seats = [_Seat(number, each) for number, each in enumerate(sockets)]
        self._handover = Handover(lambda: descriptors(settings, sockets), lambda: workers.draining)
        self._to_be_told: Predecessor | None = predecessor  # until all workers serve
        self._stop_by: float | None = None
        self._exit_code = 0

    def run(self) -> int:
        """Start all; return when all have ended."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        logs.info("supervising", workers=len(self._seats))
        while self._stop_by is None or any(seat.pid for seat in self._seats):
            self._start_due()
            self._hear()
            self._bury()
            self._tell_when_ready()
            if self._handover.under_way and self._handover.done():
                self._handover.leave()
                self._retire()
            if self._stop_by is not None and time.monotonic() >= self._stop_by:
                self._end()
        return self._exit_code

    def _hear(self) -> None:
        heard = signal.sigtimedwait(_HEARD, self._patience_s())
        number = None if heard is None else heard.si_signo
        if number in _STOP:
            self._handover.give_up()
            self._stop()
        elif number == signal.SIGHUP:
            self._reload()
        elif number == signal.SIGUSR2:
            self._handover.begin()

    def _tell_when_ready(self) -> None:
        if self._to_be_told is not None and self._workers.all_ready:
            self._to_be_told.serving()
            self._to_be_told = None

    def _patience_s(self) -> float:
        if self._handover.under_way or self._to_be_told is not None:
            return LOOK_S
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
                    other.sockets.close()
            code = self._work(self._config, self._workers.seat(seat.number), seat.sockets)
        except BaseException as failure:  # noqa: BLE001  nothing of a worker may run on in the supervisor's frames
            logs.error("worker_failed", exception=failure, worker=seat.number)
        finally:
            os._exit(code)

    def _bury(self) -> None:
        for seat in self._seats:
            if seat.pid:
                pid, status = os.waitpid(seat.pid, os.WNOHANG)  # not whoever: a successor is not ours to bury
                if pid:
                    seat.pid = 0
                    self._ended(seat, pid, os.waitstatus_to_exitcode(status))

    def _ended(self, seat: _Seat, pid: int, code: int) -> None:
        self._workers.seat(seat.number)  # its requests are over
        if self._stop_by is not None:
            seat.sockets.close()  # or the kernel would go on to send connections to where nobody is
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
        by = self._ended_by()
        self._stop_by = by if self._stop_by is None else min(by, self._stop_by)
        for seat in self._seats:
            if not seat.pid:
                seat.sockets.close()
        self._tell_all(signal.SIGTERM)

    def _retire(self) -> None:
        """The successor holds all sockets. Workers do with them as they do when there is none above them."""
        self._stop_by = self._ended_by() + RETIREMENT_S
        for seat in self._seats:
            seat.sockets.close()
        self._tell_all(signal.SIGUSR2)

    def _ended_by(self) -> float:
        return time.monotonic() + self._config.settings.gateway.drain_timeout_s + _LAST_WORDS_S

    def _end(self) -> None:
        logs.error("workers_killed", workers=[seat.number for seat in self._seats if seat.pid])
        self._stop_by = time.monotonic() + _IDLE_S
        self._tell_all(signal.SIGKILL)

    def _tell_all(self, number: signal.Signals) -> None:
        for seat in self._seats:
            if seat.pid:
                os.kill(seat.pid, number)


def _end_with(parent: int) -> None:
    """Stop when the supervisor is no more, however it ended."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
