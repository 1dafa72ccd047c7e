"""A rank's line to the daemon: a thread that owns the zmq socket.

Owns: the socket, and the answer to a ping, which never waits for a step (case T7). Does not own: what frames mean.
Called by: engine.rank and engine.worker, from the engine's thread. Nothing polls busily: the thread sleeps until the
socket or its bell has something, the engine's thread until a frame is there.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

import msgspec
import zmq

from cortex_neuron.protocol.addresses import identity
from cortex_neuron.protocol.frames import Error, FrameInvalid, FromRank, Ping, Pong, ToRank, decode_to_rank, encode

CLOSE_TIMEOUT_S = 5.0
Task = Callable[[], None]


class Mailbox:
    """`pong` is what a ping is answered with, and `entered` counts for it; both may be replaced at any time."""

    def __init__(self, address: str, rank: int, pong: Pong) -> None:
        self.pong = pong
        self.entered: Callable[[], int] = int
        self._rank = rank
        self._address = address
        self._inbox: queue.SimpleQueue[ToRank | Task] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[FromRank | None] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="mailbox", daemon=True)
        self._thread.start()
        self.send(pong)

    def receive(self, wait: bool) -> list[ToRank | Task]:
        """All frames that are here, and tasks; with `wait`, at least one."""
        frames = [self._inbox.get()] if wait else []
        while not self._inbox.empty():
            frames.append(self._inbox.get_nowait())
        return frames

    def send(self, frame: FromRank | None) -> None:
        self._outbox.put(frame)
        os.eventfd_write(self._bell, 1)

    def call(self, task: Task) -> None:
        """Have who receives do this, between frames; from any thread."""
        self._inbox.put(task)

    def close(self) -> None:
        """Send what is left, then end the thread."""
        self.send(None)
        self._thread.join(CLOSE_TIMEOUT_S)

    # ---- the thread

    def _run(self) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.identity = identity(self._rank)
        socket.linger = int(CLOSE_TIMEOUT_S * 1000)
        socket.connect(self._address)
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._bell, zmq.POLLIN)
        while self._send_waiting(socket):
            ready = dict(poller.poll())
            if self._bell in ready:
                os.eventfd_read(self._bell)
            if socket in ready:
                self._take(socket)
        socket.close()
        context.term()

    def _send_waiting(self, socket: zmq.Socket[bytes]) -> bool:
        """False once the mailbox was closed."""
        while not self._outbox.empty():
            frame = self._outbox.get_nowait()
            if frame is None:
                return False
            socket.send(encode(frame))
        return True

    def _take(self, socket: zmq.Socket[bytes]) -> None:
        data = socket.recv_multipart()[-1]
        try:
            frame = decode_to_rank(data)
        except FrameInvalid as error:
            socket.send(encode(Error(seq=error.seq, kind=error.kind, message=str(error), rank=self._rank)))
            return
        if isinstance(frame, Ping):
            socket.send(encode(msgspec.structs.replace(self.pong, seq=frame.seq, entered=self.entered())))
        else:
            self._inbox.put(frame)
