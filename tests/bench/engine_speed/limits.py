"""What the machine allows: every token needs every weight once, and weights come out of memory.

Owns: how fast memory is read, with as many threads as there are cores; the bytes of the demo model's weights in each
format. A model that fits into a cache would be held to too low a limit; the demo model fits into few. Called by:
__main__.py, alone.py.
"""

from __future__ import annotations

import math
import os
import time

from tests.bench.processes import DEMO_MODEL

_ARRAY_BYTES = 1 << 30  # far more than any cache
_FLOAT_BYTES = 4
_ROW = 4096
_WIDTHS = {"float32": 4, "bfloat16": 2}
FILE_FORMAT = "gguf"


def read_gb_s(seconds: float) -> float:
    """The best of all that are tried in that time: a limit is asked for, and the machine may be shared."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows = torch.ones(_ARRAY_BYTES // _FLOAT_BYTES // _ROW, _ROW)
    row = torch.ones(_ROW)
    best, until = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < until or best == math.inf:
        began = time.perf_counter()
        torch.mv(rows, row)
        summed = time.perf_counter()
        torch.sum(rows)
        best = min(best, summed - began, time.perf_counter() - summed)
    return _ARRAY_BYTES / best / 1e9


def bytes_per_token(weights: str) -> int:
    """Of the weights that one token takes part in, in a format: all, but an embedding that is not the head as well."""
    from cortex_neuron.models.gguf_file import GgufFile

    tensors = GgufFile(DEMO_MODEL).tensors
    untied = any(entry.name == "output.weight" for entry in tensors)
    needed = [entry for entry in tensors if not (untied and entry.name == "token_embd.weight")]
    if weights == FILE_FORMAT:
        return sum(entry.num_bytes for entry in needed)
    return sum(math.prod(entry.shape) for entry in needed) * _WIDTHS[weights]
