"""What the engine says of one request's sequences, as they come.

Owns: the queue between the group's reader and the one request that reads it. A request's failure is its own; the
group's death fails every stream. Made by: Group.submit. Read by: inference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from cortex_contracts.wire.errors import CortexError
from cortex_neuron.protocol.frames import Output


class Stream:
    """Outputs of the sequences `ids`, in the order of steps. Close it, whatever happens (case L9)."""

    def __init__(self, ids: Sequence[int], turn: float, release: Callable[[Sequence[int]], None]) -> None:
        self.ids, self.turn = tuple(ids), turn
        self.started = False
        self._running = set(ids)
        self._release = release
        self._outputs: list[Output] = []
        self._failure: CortexError | None = None
        self._wakeup = asyncio.Event()

    async def next(self, timeout_s: float) -> list[Output]:
        """What has come since the last call; empty after `timeout_s` of silence. Raises what the request failed of."""
        if not self._outputs and self._failure is None:
            self._wakeup.clear()
            timer = asyncio.get_running_loop().call_later(timeout_s, self._wakeup.set)
            try:
                await self._wakeup.wait()
            finally:
                timer.cancel()
        outputs, self._outputs = self._outputs, []
        if not outputs and self._failure is not None:
            raise self._failure
        return outputs

    def put(self, output: Output) -> None:
        """Called by the group for one sequence's part of a step."""
        self.started = True
        if output.finish is not None:
            self._running.discard(output.id)
        self._outputs.append(output)
        self._wakeup.set()

    def fail(self, failure: CortexError) -> None:
        """End the stream with `failure`, after what has already come."""
        self._failure = self._failure or failure
        self._wakeup.set()

    def cancel(self, sequence: int) -> None:
        """End one sequence early: its answer is complete (a stop string)."""
        if sequence in self._running:
            self._running.discard(sequence)
            self._release([sequence])

    def close(self) -> None:
        """End every sequence that still runs; the engine frees their blocks within a step (case S8)."""
        running, self._running = sorted(self._running), set()
        if running:
            self._release(running)
