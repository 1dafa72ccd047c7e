"""The daemon's end of the ZeroMQ socket to one engine group.

Owns: the ROUTER socket, its ipc file, ranks as identities. Does not own: what frames mean. Called by: group.
Nothing here blocks: a send to a connected rank is handed to ZeroMQ's own thread at once.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import zmq
import zmq.asyncio

from cortex_neuron.protocol.frames import FromRank, ToRank, decode_from_rank, encode


class RankUnreachable(Exception):
    """A frame was meant for a rank that is not connected."""


class RankChannel:
    """Frames to and from the ranks of one group."""

    def __init__(self, path: Path) -> None:
        self.address = f"ipc://{path}"
        self._path = path
        self._socket = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a lost rank is an error, not a dropped frame
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.bind(self.address)

    def send(self, rank: int, frame: ToRank) -> None:
        """Raises RankUnreachable."""
        sent: asyncio.Future[object] = asyncio.ensure_future(
            self._socket.send_multipart([b"rank-%d" % rank, encode(frame)])
        )
        try:
            if sent.done():
                sent.result()
        except zmq.ZMQError as failure:
            raise RankUnreachable(f"rank {rank} is not connected: {failure.strerror}") from failure

    async def receive(self) -> FromRank:
        """The next frame of any rank. Raises FrameInvalid."""
        parts = await self._socket.recv_multipart()
        return decode_from_rank(parts[-1])

    def close(self) -> None:
        """Close the socket and take its file away."""
        self._socket.close()
        self._path.unlink(missing_ok=True)
