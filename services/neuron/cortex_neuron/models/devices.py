"""The device a model is put on, checked before anything touches it.

Called by: models.loader. Never falls back: a load that asks for a GPU gets one or an error.
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
