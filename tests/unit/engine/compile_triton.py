"""Compile our Triton kernels for GPUs that are not here; fails where one does not, or takes too much of the chip."""

from __future__ import annotations

from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cortex_neuron.layers import triton_decode, triton_fused

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
        _compile_fused(kind, stored, width, target)


def _compile_fused(kind: str, stored: str, width: int, target: object) -> None:
    """Turned whole, by half and not at all, with norms and without; into a cache that this capability has."""
    given = dict.fromkeys(("query", "key", "value", "cosines", "sines", "query_weight", "key_weight"), f"*{kind}")
    made = dict.fromkeys(("turned_query", "turned_key"), f"*{kind}")
    signature = {**given, "slots": "*i64", "keys": f"*{stored}", "values": f"*{stored}", **made}
    signature |= dict.fromkeys(("query_row", "key_row", "value_row", "cosine_row", "sine_row"), "i32")
    signature |= {"slot_stride": "i32", "head_stride": "i32", "epsilon": "fp32", "most": "fp32"}
    shape = {"group": 3, "group_pad": 4, "width": width, "width_pad": width, "num_kv_heads": 8}
    for half, is_normed in ((width // 2, True), (width // 4, False), (0, False)):
        rule = {"half": half, "is_normed": is_normed, "is_stored": True, "is_cut": stored.startswith("fp8")}
        _compile(triton_fused._turn, signature, {**shape, **rule}, target)
    gate = {**dict.fromkeys(("gate", "up", "out"), f"*{kind}"), **dict.fromkeys(("gate_row", "up_row", "width"), "i32")}
    _compile(triton_fused._gate, gate, {"num_columns": triton_fused._COLUMNS}, target)
    norm = dict.fromkeys(("residual", "addend", "weight", "total", "normed"), f"*{kind}") | {"epsilon": "fp32"}
    for hidden in (576, 4096, 12288):
        pad = triton.next_power_of_2(hidden)
        options = {"num_warps": triton_fused.num_warps(pad)}
        _compile(triton_fused._add_norm, norm, {"width": hidden, "width_pad": pad}, target, options)


def _compile(
    function: object, signature: dict[str, str], constants: dict[str, object], target: object, options: Any = None
) -> None:
    named = {**signature, **dict.fromkeys(constants, "constexpr")}
    compiled = triton.compile(ASTSource(function, named, constants), target=target, options=options)
    assert compiled.metadata.shared <= _SHARED_BYTES, (target, compiled.metadata.shared)


if __name__ == "__main__":
    main()
