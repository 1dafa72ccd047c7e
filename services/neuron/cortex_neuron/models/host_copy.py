"""The weights of a model that sleeps, in host memory, while its device has none of them.

Owns: the copy, there and back. What holds the tensors does not notice: their memory goes and comes, they stay. Does not
own: the cache (engine.kv_cache). Called by: engine.rank and engine.worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from cortex_neuron.protocol.failures import CannotLoad

_OK = 0  # of the CUDA runtime


def storages(models: Iterable[nn.Module], device: torch.device) -> list[UntypedStorage]:
    """Those on the device, of every tensor that they hold as parameter, buffer or attribute. What is shared is there
    once."""
    found: dict[int, UntypedStorage] = {}
    for each in (module for model in models for module in model.modules()):
        for held in (*each._parameters.values(), *each._buffers.values(), *vars(each).values()):
            for tensor in _plain(held) if isinstance(held, Tensor) and held.device.type == device.type else ():
                if tensor.untyped_storage().nbytes():
                    found.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage())
    return list(found.values())


def _plain(tensor: Tensor) -> Iterator[Tensor]:
    """Those that have memory: rounded weights (models.rounding) are of several."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain(getattr(tensor, name))


class HostCopy:
    """Takes the weights and gives their memory back to the device, until `restore`.

    One piece of memory for all, as torch's own pinned memory comes in powers of two. Raises CannotLoad for memory that
    is not the storage's own to give, or that the driver does not pin; nothing is then given back.
    """

    def __init__(self, models: Iterable[nn.Module], device: torch.device) -> None:
        parts, self._device = storages(models, device), device
        if not all(part.resizable() for part in parts):
            raise CannotLoad("the weights are in memory that cannot be given back")
        self._parts = [(part, part.nbytes()) for part in parts]
        self.num_bytes = sum(size for _, size in self._parts)
        self._memory = torch.empty(self.num_bytes, dtype=torch.uint8)
        self._pinned = device.type == "cuda"
        if self._pinned:
            self._pin()
        self._copy(lambda host, there: host.copy_(there, non_blocking=self._pinned))
        for part, _ in self._parts:
            part.resize_(0)
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def restore(self) -> None:
        """The content is where it was, and the host's memory is given back. Once."""
        for part, size in self._parts:
            part.resize_(size)
        self._copy(lambda host, there: there.copy_(host, non_blocking=self._pinned))
        if self._pinned:
            _runtime().cudaHostUnregister(self._memory.data_ptr())
        del self._memory, self._parts

    @torch.no_grad()
    def _copy(self, one: Callable[[Tensor, Tensor], object]) -> None:
        at = 0
        for part, size in self._parts:
            there = torch.empty(0, dtype=torch.uint8, device=part.device).set_(part)
            one(self._memory[at : at + size], there)
            at += size
        if self._pinned:
            torch.cuda.synchronize(self._device)

    def _pin(self) -> None:
        """A refusal is not to be worked around: the next kernel's launch would be blamed for it."""
        with torch.cuda.device(self._device):  # on another it would begin a context
            error = int(_runtime().cudaHostRegister(self._memory.data_ptr(), self._memory.nbytes, 0))
        if error != _OK:
            raise CannotLoad(f"the driver does not pin {self._memory.nbytes} bytes of host memory: error {error}")


def _runtime() -> Any:
    return torch.cuda.cudart()
