"""Parts of files copied into tensors that stay where they are, on whatever device.

Owns: the copy to a GPU, in pieces through pinned memory. Does not own: what is read (models.weights), or where it goes
(models.sharded_model, which calls this).

A file's pages are mapped. torch's threads copy one piece of them into pinned memory while the device takes the piece
before it: so a load takes as long as reading, not as reading and sending one after the other, and no tensor is in host
memory whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_PIECE_BYTES = 64 << 20


class Placing:
    """Of one load. `done` waits for what is still on its way."""

    def __init__(self, device: torch.device, piece_bytes: int = _PIECE_BYTES) -> None:
        self._device, self._piece_bytes = device, piece_bytes
        self._stages: list[_Stage] = []
        if device.type == "cuda":
            self._stages = [_Stage(piece_bytes, device) for _ in range(2)]
        self._turn = 0

    def copy(self, into: Tensor, tensor: Tensor) -> None:
        """`tensor`, on the host, into one of the same shape on the device."""
        if not self._stages:
            into.copy_(tensor)
            return
        for place, piece in _pieces(into, tensor, self._piece_bytes):
            self._stages[self._turn].send(place, piece)
            self._turn = 1 - self._turn

    def done(self) -> None:
        for stage in self._stages:
            stage.wait()


class _Stage:
    """Pinned memory for one piece."""

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        self._memory = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        self._stream = torch.cuda.current_stream(device)
        self._taken: Any = None

    def send(self, place: Tensor, piece: Tensor) -> None:
        self.wait()
        here = self._memory[: piece.numel() * piece.element_size()].view(piece.dtype).view(piece.shape)
        here.copy_(piece)
        place.copy_(here, non_blocking=True)
        self._taken = self._stream.record_event()

    def wait(self) -> None:
        """Until the device has what was sent last."""
        if self._taken is not None:
            self._taken.synchronize()


def _pieces(into: Tensor, tensor: Tensor, most_bytes: int) -> list[tuple[Tensor, Tensor]]:
    """Both in the same parts, none of more than so many bytes; cut where rows end, and a row that is longer within."""
    if not tensor.dim() or tensor.numel() * tensor.element_size() <= most_bytes:
        return [(into, tensor)]
    rows = most_bytes // (tensor[0].numel() * tensor.element_size())
    if not rows:
        return [pair for i in range(len(tensor)) for pair in _pieces(into[i], tensor[i], most_bytes)]
    return list(zip(into.split(rows), tensor.split(rows), strict=True))
