"""Running Sanic applications on one uvloop: bind first, then serve, then stop in order.

Owns: sockets, signals, the end of connections. Does not own: what draining means (the service's `stop` does).
Called by: the cli of each service.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sanic.server import AsyncioServer

from cortex_serving import logs
from cortex_serving.application import App

RETIREMENT_S = 3600.0  # nobody waits for the end of a process that is replaced, and an answer takes as long as it takes
_CONNECTION_GRACE_S = 2.0
_SILENT_S = 5.0  # a kept connection of a replaced process without a request; clients' own limits are mostly shorter
_LOOK_S = 0.1
_UNREAD_S = 60  # how long a client may leave unread what it was sent; after that it is gone


class CannotListen(Exception):
    """An address cannot be bound; the message names it."""


@dataclass(frozen=True, slots=True)
class Listener:
    """An application and the address it is served on; `bound` where another process has bound it."""

    app: App
    host: str
    port: int
    bound: socket.socket | None = None


async def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifecycle:
    """What a service does once its sockets are bound (case L2), once it serves, on SIGHUP, on SIGUSR2, and on SIGTERM
    or SIGINT (case L8).

    `stop` closes admission, lets running requests end up to its own bound, and returns; until then the sockets
    stay open, so that late callers get a 503 rather than a refused connection.

    `hand_over` has another process serve on the same sockets and returns True, or returns False and all is as before.
    After it nothing is accepted here; what has been is served to its end, and `retire` ends what the service does by
    itself meanwhile.
    """

    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]
    others_ready: Callable[[], Awaitable[None]] = _nothing  # nothing is accepted on `bound` sockets before
    reload: Callable[[], Awaitable[None]] | None = None
    serving: Callable[[], None] = lambda: None
    hand_over: Callable[[], Awaitable[bool]] | None = None
    retire: Callable[[], Awaitable[None]] = _nothing


@dataclass(frozen=True, slots=True)
class _Ending:
    """How serving ends: set are none, `replaced`, `stopping`, or the one after the other."""

    stopping: asyncio.Event
    replaced: asyncio.Event


async def serve(listeners: Sequence[Listener], lifecycle: Lifecycle, stopping: asyncio.Event | None = None) -> None:
    """Serve until SIGTERM or SIGINT or, where a caller in the same process wants that instead, until `stopping`.

    Raises CannotListen.
    """
    ending = _Ending(stopping or asyncio.Event(), asyncio.Event())
    if stopping is None:
        _install_signals(lifecycle, ending)
    servers = [await _listen(listener) for listener in listeners if listener.bound is None]
    try:
        await lifecycle.start()
        if await _done_before(ending.stopping, lifecycle.others_ready()):
            # Who connects to these is not refused meanwhile, and is better served by a service that is ready.
            servers += [await _listen(listener) for listener in listeners if listener.bound is not None]
            logs.info("serving", addresses=[f"{each.host}:{each.port}" for each in listeners])
            lifecycle.serving()
            if await _done_before(ending.stopping, ending.replaced.wait()):
                await _retire(servers, lifecycle, ending.stopping)
    finally:
        logs.info("stopping")
        await lifecycle.stop()
        for server in servers:
            await _close(server)


async def _done_before(event: asyncio.Event, work: Awaitable[object]) -> bool:
    """Whether `work` is done before `event` is set, which ends it. Raises what it raises."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done() and not event.is_set():
            await working
            return True
        return False
    finally:
        for each in (working, waiting):
            each.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


def _install_signals(lifecycle: Lifecycle, ending: _Ending) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.stopping.set)
    tasks: set[asyncio.Task[None]] = set()

    def on(number: signal.Signals, failed: str, act: Callable[[], Awaitable[None]]) -> None:
        async def logged() -> None:
            try:
                await act()
            except Exception as failure:  # noqa: BLE001  what an operator asks for must not end a serving process
                logs.error(failed, exception=failure)

        def begin() -> None:
            task = loop.create_task(logged())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        loop.add_signal_handler(number, begin)

    one_at_a_time = asyncio.Lock()  # or what was read first could be taken up last

    async def reload() -> None:
        async with one_at_a_time:
            assert lifecycle.reload is not None, "asked"
            await lifecycle.reload()

    async def hand_over() -> None:
        assert lifecycle.hand_over is not None, "asked"
        if await lifecycle.hand_over():
            ending.replaced.set()

    if lifecycle.reload is not None:
        on(signal.SIGHUP, "reload_failed", reload)
    if lifecycle.hand_over is not None:
        on(signal.SIGUSR2, "handover_failed", hand_over)
    # Who starts a worker blocks them until here, so that none comes before its handler.
    heard = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, heard)


async def _listen(listener: Listener) -> AsyncioServer:
    bound = listener.bound or bind(listener.host, listener.port)
    server = await listener.app.create_server(sock=bound, return_asyncio_server=True)
    assert server is not None
    await server.startup()
    await server.before_start()
    await server.after_start()
    return server


def bind(host: str, port: int, shared: bool = False) -> socket.socket:
    """A listening socket; where `shared`, others may listen on the same address. Raises CannotListen."""
    try:
        return _bind(host, port, shared)
    except OSError as failure:
        raise CannotListen(f"cannot listen on {host}:{port}: {failure.strerror}") from failure


def _bind(host: str, port: int, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it, and the kernel does the watching
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_S * 1000)
        bound.bind((host.strip("[]"), port))
        bound.listen(1024)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


async def _retire(servers: Sequence[AsyncioServer], lifecycle: Lifecycle, stopping: asyncio.Event) -> None:
    """Serve what is connected until it has what it wants, each with the word that the next request needs a new
    connection. Ends when nobody is left, when it has taken RETIREMENT_S, or at `stopping`.

    A connection that is silent is closed at last, as any kept connection is: a request that crosses with that is lost.
    """
    logs.info("retiring")
    began = time.monotonic()
    for server in servers:
        server.app.config.KEEP_ALIVE = False
        assert server.server is not None, "it listens"
        server.server.close()  # its descriptor alone: what waits in the queue is the other process's
    retiring = asyncio.ensure_future(lifecycle.retire())
    try:
        async with asyncio.timeout(RETIREMENT_S):
            await _done_before(stopping, _emptied(servers, began))
    except TimeoutError:
        logs.warning("retired_late", connections=sum(len(server.connections) for server in servers))
    finally:
        retiring.cancel()
        await asyncio.gather(retiring, return_exceptions=True)


async def _emptied(servers: Sequence[AsyncioServer], began: float) -> None:
    left = True
    while left:
        await asyncio.sleep(_LOOK_S)  # first, for what was accepted in the same moment as the sockets were closed
        now = time.monotonic()
        left = False
        for connection in [each for server in servers for each in server.connections]:
            silent = now - max(began, connection._time) >= _SILENT_S
            if not (silent and connection.close_if_idle()):
                left = True


async def _close(server: AsyncioServer) -> None:
    await server.before_stop()
    closed = server.close()
    deadline = asyncio.get_running_loop().time() + _CONNECTION_GRACE_S
    while server.connections and asyncio.get_running_loop().time() < deadline:
        for connection in list(server.connections):
            connection.close_if_idle()
        await asyncio.sleep(0.02)
    for connection in list(server.connections):
        connection.abort()
    if closed is not None:
        await closed
    await server.after_stop()
