"""What torch says of itself, printed as JSON. Run by: probes, as a process of its own, for its import may fail."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from cortex_neuron.doctor.facts import TorchFacts


def read_torch() -> TorchFacts:
    """Never raises: what fails is in `problem`."""
    try:
        import torch
        import torch.distributed
    except Exception as error:  # noqa: BLE001  a library that is missing, or is another's: whatever it is, it is told
        return TorchFacts(problem=f"{type(error).__name__}: {error}")
    with warnings.catch_warnings(record=True) as said:  # why there is no device is only said so
        warnings.simplefilter("always")
        num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    nccl: Any = torch.cuda.nccl  # torch has no types for it
    has_nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    return TorchFacts(
        version=torch.__version__,
        cuda_version=torch.version.cuda,
        nccl_version=".".join(map(str, nccl.version())) if has_nccl else None,
        num_devices=num_devices,
        problem="; ".join(str(each.message) for each in said) or None,
    )


if __name__ == "__main__":
    sys.stdout.write(read_torch().model_dump_json())
