"""The device a model is put on, checked before anything touches it, and what is free of it.

Called by: models.loader, engine.communicator, engine.part. Never falls back: a load that asks for a GPU gets one or an
error.
"""

from __future__ import annotations

import re

import torch

from cortex_neuron.protocol.failures import CannotLoad, CudaDeviceNotFound, CudaNotAvailable, CudaNotBuilt


def find_device(name: str) -> torch.device:
    """`cpu` or `cuda:N`. Raises CannotLoad, the most basic fault first."""
    if name == "cpu":
        return torch.device("cpu")
    if not re.fullmatch(r"cuda:\d+", name):
        raise CannotLoad(f"device {name!r} is unknown, expected 'cpu' or 'cuda:N'")
    if torch.version.cuda is None:
        raise CudaNotBuilt(f"device {name}: torch {torch.__version__} was built without CUDA")
    if not torch.cuda.is_available():
        raise CudaNotAvailable(f"device {name}: torch {torch.__version__} finds no CUDA driver or device")
    device = torch.device(name)
    if device.index >= torch.cuda.device_count():
        raise CudaDeviceNotFound(f"device {name}: this host has {torch.cuda.device_count()}")
    return device


def free_bytes(name: str) -> int:
    """Of the whole device, had this process's torch nothing there. 0 where there is none: to say so is the load's."""
    if not name.startswith("cuda") or not torch.cuda.is_available():
        return 0
    device = torch.device(name)
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
