"""Fewer kernels for a model that a GPU computes: which of its modules are computed by ours, and what is said of it.

Owns: the choice and its reasons. Does not own: the forwards (layers.fused_norm, layers.fused_attention,
layers.fused_mlp, layers.fused_residual), the kernels (layers.triton_fused), or the trial of these (layers.ops_trial).
Called by: models.module_loader, once, before the model goes to its device; its words by engine.runner.

A step of one sequence is little but the reading of weights, and a kernel takes microseconds whatever it does, in a
graph as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cortex_neuron.layers import backend, fused_attention, fused_mlp, fused_residual, ops_trial
from cortex_neuron.layers.fused_attention import Form
from cortex_neuron.layers.fused_norm import fuse_norms
from cortex_neuron.layers.fused_ops import Ops
from cortex_neuron.layers.ops_trial import Sizes

_WORDS = "_fused_words"
_LEAST_CAPABILITY = (7, 5)
_BFLOAT16_CAPABILITY = (8, 0)


def fuse(module: Any, device: torch.device) -> None:
    """Have the module computed by as few kernels as can be on this device, to which it is moved after this."""
    fuse_norms(module)
    forms = forms_of(module)
    refusal = _refusal(forms, device, module.dtype)
    if refusal is None:
        from cortex_neuron.layers.triton_fused import TritonOps  # where Triton is

        ops = TritonOps()
        refusal = _fault(module, forms, ops, device)
    said = f"no fused layers: {refusal}" if refusal else fuse_layers(module, forms, ops, device)
    setattr(module, _WORDS, f"; {said}")


def words(module: Any) -> str:
    """What has been fused, or why nothing was, as an addition to what is said of attention; nothing on a CPU."""
    found: str = getattr(module, _WORDS, "")
    return found


def forms_of(module: nn.Module) -> dict[nn.Module, Form]:
    """Its attention modules that are of the plain kind, once norms are fused."""
    found = {each: fused_attention.form_of(each) for each in module.modules() if hasattr(each, "o_proj")}
    return {each: form for each, form in found.items() if form is not None}


def fuse_layers(module: nn.Module, forms: dict[nn.Module, Form], ops: Ops, device: torch.device) -> str:
    """Have layers computed by these operations. What was fused, in words."""
    for attention, form in forms.items():
        fused_attention.fuse(attention, form, ops, device)
    mlps = [each for each in module.modules() if hasattr(each, "down_proj") and fused_mlp.is_plain(each)]
    for mlp in mlps:
        fused_mlp.fuse(mlp, ops, device)
    decoders = [each for each in module.modules() if hasattr(each, "layers") and hasattr(each, "norm")]
    num_layers = sum(fused_residual.fuse(decoder, ops) for decoder in decoders)
    return f"fused: {len(forms)} attentions, {len(mlps)} feed-forwards, {num_layers} sums with norms"


# Why none are fused: the first that holds is what is said.
_REFUSALS: tuple[tuple[Callable[[torch.device, torch.dtype], bool], str], ...] = (
    (lambda device, _: device.type != "cuda", "they are for CUDA"),
    (lambda *_: not backend.has_triton(), "triton is not installed"),
    (lambda device, _: _capability(device) < _LEAST_CAPABILITY, "they need compute capability 7.5"),
    (
        lambda device, dtype: dtype is torch.bfloat16 and _capability(device) < _BFLOAT16_CAPABILITY,
        "bfloat16 needs 8.0",
    ),
)


def _refusal(forms: dict[nn.Module, Form], device: torch.device, dtype: torch.dtype) -> str | None:
    refusal = next((words for holds, words in _REFUSALS if holds(device, dtype)), None)
    return refusal or (None if forms else "no attention of the plain kind")


def _fault(module: Any, forms: dict[nn.Module, Form], ops: Ops, device: torch.device) -> str | None:
    """What is wrong with the kernels that these layers need."""
    hidden, dtype = module.config.hidden_size, module.dtype
    kinds = {Sizes(f.heads, f.kv_heads, f.head_dim, f.turned, f.is_normed, hidden, dtype) for f in forms.values()}
    return next((fault for sizes in kinds if (fault := ops_trial.fault(ops, sizes, device))), None)


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
