"""Compile our Triton kernels for GPUs that are not here; fails where one does not, or takes too much of the chip."""

from __future__ import annotations

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cortex_neuron.layers import triton_decode

_POINTERS = ("peaks", "sums", "parts")
_NUMBERS = ("query_row", "query_head", "slot_stride", "head_stride", "table_row", "window")
_SHARED_BYTES = 64 << 10  # of a multiprocessor of 7.5, which has the least
_CASES = (
    (75, "fp16", "fp16", torch.float16, 128),
    (80, "bf16", "bf16", torch.bfloat16, 256),
    (89, "bf16", "fp8e4nv", torch.bfloat16, 128),
    (90, "fp32", "fp32", torch.float32, 256),
    (120, "bf16", "bf16", torch.bfloat16, 128),
)


def main() -> None:
    """Every case, with and without a window and a cap."""
    for capability, kind, stored, dtype, width in _CASES:
        target = GPUTarget("cuda", capability, 32)
        joined = {"group": 4, "width": width, "width_pad": width, "num_parts": 16, "num_kv_heads": 8}
        _compile(triton_decode._join_parts, {**dict.fromkeys(_POINTERS, "*fp32"), "out": f"*{kind}"}, joined, target)
        tokens = triton_decode.num_tokens(width, dtype)
        shape = {**joined, "group_pad": 16, "block_size": 256, "num_tokens": tokens}
        signature = {"query": f"*{kind}", "keys": f"*{stored}", "values": f"*{stored}", "scale": "fp32", "cap": "fp32"}
        signature |= dict.fromkeys(("tables", "lengths"), "*i32") | dict.fromkeys(_POINTERS, "*fp32")
        signature |= dict.fromkeys(_NUMBERS, "i32")
        for rule in (True, False):
            constants = {**shape, "is_capped": rule, "is_windowed": rule}
            _compile(triton_decode._attend_part, signature, constants, target)


def _compile(function: object, signature: dict[str, str], constants: dict[str, object], target: object) -> None:
    named = {**signature, **dict.fromkeys(constants, "constexpr")}
    compiled = triton.compile(ASTSource(function, named, constants), target=target)
    assert compiled.metadata.shared <= _SHARED_BYTES, (target, compiled.metadata.shared)


if __name__ == "__main__":
    main()
