"""Running Sanic applications on one uvloop: bind first, then serve, then stop in order.

Owns: sockets, signals, the end of connections. Does not own: what draining means (the service's `stop` does).
Called by: the cli of each service.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sanic.server import AsyncioServer

from cortex_serving import logs
from cortex_serving.application import App

_CONNECTION_GRACE_S = 2.0
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


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """What a service does once its sockets are bound (case L2), on SIGHUP, and on SIGTERM or SIGINT (case L8).

    `stop` closes admission, lets running requests end up to its own bound, and returns; until then the sockets
    stay open, so that late callers get a 503 rather than a refused connection.
    """

    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]
    reload: Callable[[], Awaitable[None]] | None = None


async def serve(listeners: Sequence[Listener], lifecycle: Lifecycle, stopping: asyncio.Event | None = None) -> None:
    """Serve until SIGTERM or SIGINT or, where a caller in the same process wants that instead, until `stopping`.

    Raises CannotListen.
    """
    stopping = stopping or _install_signals(lifecycle)
    servers = [await _listen(listener) for listener in listeners if listener.bound is None]
    try:
        await lifecycle.start()
        # Who connects to these is not refused meanwhile, and is better served by a service that is ready.
        servers += [await _listen(listener) for listener in listeners if listener.bound is not None]
        logs.info("serving", addresses=[f"{each.host}:{each.port}" for each in listeners])
        await stopping.wait()
    finally:
        logs.info("stopping")
        await lifecycle.stop()
        for server in servers:
            await _close(server)


def _install_signals(lifecycle: Lifecycle) -> asyncio.Event:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    reload = lifecycle.reload
    if reload is not None:
        tasks: set[asyncio.Task[None]] = set()
        one_at_a_time = asyncio.Lock()  # or what was read first could be taken up last

        async def reload_logged() -> None:
            try:
                async with one_at_a_time:
                    await reload()
            except Exception as failure:  # noqa: BLE001  a bad new config must not end a serving process
                logs.error("reload_failed", exception=failure)

        def start_reload() -> None:
            task = loop.create_task(reload_logged())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        loop.add_signal_handler(signal.SIGHUP, start_reload)
    # Who starts a worker blocks them until here, so that none comes before its handler.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    return stopping


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
