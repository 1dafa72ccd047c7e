"""Small tensors on their way between host and device, of which nobody waits until what came is looked at.

Owns: pinned memory, and the event after which a copy is there. Does not own: what is sent. Called by: layers.paged and
layers.page_kernels, engine.decode_graphs, engine.sampler and engine.grammar: whatever a step sends or fetches.

A copy out of memory that is not pinned, and one that is asked to be there at once, wait for all that the device has
still to do: then the next step would not be prepared while this one runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(array: NDArray[Any], device: torch.device) -> Tensor:
    """On a CPU a view of the same memory."""
    return send(torch.from_numpy(array), device)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's, which may be changed as soon as this returns unless the device is a CPU."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def rows_of(tensor: Tensor, rows: list[int]) -> Tensor:
    """Those rows, in this order; the tensor itself where that is all of them."""
    if len(rows) == len(tensor):
        return tensor
    return tensor[upload(np.array(rows, np.int64), tensor.device)]


class Fetched:
    """Tensors as they are once all that the device was given until now is done."""

    def __init__(self, *tensors: Tensor) -> None:
        self._here = [tensor.to("cpu", non_blocking=True) for tensor in tensors]  # from a GPU to pinned memory
        self._arrived: Any = None
        if tensors[0].is_cuda:
            self._arrived = torch.cuda.Event(blocking=True)  # who waits sleeps: the daemon may want the core
            self._arrived.record(torch.cuda.current_stream(tensors[0].device))

    def wait(self) -> list[Tensor]:
        """On the host."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._here
