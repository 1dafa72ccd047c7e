"""The daemon's end of the ZeroMQ socket to one engine group.

Owns: the ROUTER socket, its ipc file, ranks as identities. Does not own: what frames mean. Called by: group.
Nothing here blocks: a send to a connected rank is handed to ZeroMQ's own thread at once.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import zmq
import zmq.asyncio

from cortex_neuron.protocol.addresses import identity, peers_address, rank_of
from cortex_neuron.protocol.frames import FrameInvalid, FromRank, ToRank, decode_from_rank, encode


class RankUnreachable(Exception):
    """A frame was meant for a rank that is not connected."""


class RankNonsense(Exception):
    """A rank sent a frame that is not one."""

    def __init__(self, rank: int, invalid: FrameInvalid) -> None:
        super().__init__(f"rank {rank} sent a frame that is not one: {invalid}")
        self.rank, self.kind = rank, invalid.kind


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
            self._socket.send_multipart([identity(rank), encode(frame)])
        )
        try:
            if sent.done():
                sent.result()
        except zmq.ZMQError as failure:
            raise RankUnreachable(f"rank {rank} is not connected: {failure.strerror}") from failure

    async def receive(self) -> tuple[int, FromRank]:
        """The next frame, and whose it is. Raises RankNonsense."""
        name, *_, data = await self._socket.recv_multipart()
        rank = rank_of(name)
        try:
            return rank, decode_from_rank(data)
        except FrameInvalid as invalid:
            raise RankNonsense(rank, invalid) from invalid

    def close(self) -> None:
        """Close the socket and take its file away, and that of a leader who was killed."""
        self._socket.close()
        self._path.unlink(missing_ok=True)
        Path(peers_address(str(self._path))).unlink(missing_ok=True)
