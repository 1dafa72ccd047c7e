"""Attention over the paged KV cache, under the transformers model classes.

Owns: the arithmetic where pages are gathered, and the name under which transformers finds it. Does not own: kernels
that read pages (layers.page_kernels), the cache's blocks (engine.kv_cache) or the layout of a step (layers.paged).
Called by: each attention module of a transformers model whose config says `attn_implementation="neuron"`, and by
layers.fused_attention where that takes the module's place. transformers makes no mask for a name it does not know, and
passes `paged=` down from the model's forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own spelling)
from torch import Tensor, nn

from cortex_neuron.layers import page_kernels, stored
from cortex_neuron.layers.paged import DecodeGroup, Layout, PrefillSpan
from cortex_neuron.layers.stored import Place

NAME = "neuron"


@dataclass(frozen=True, slots=True)
class Rule:
    """How one layer attends."""

    scale: float
    window: int | None
    softcap: float | None


class Step(Protocol):
    """What attention needs besides q, k and v: a PagedStep, or what notes what a layer asks for (fused_attention)."""

    def place(self, layer: int) -> Place:
        """Where the layer's keys and values go, before it attends."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int, rule: Rule) -> Tensor:
        """q -> [rows, heads, head_dim]; k and v [rows, kv_heads, head_dim] are in their place already."""


@dataclass(frozen=True, slots=True)
class PagedStep:
    """This step's layout, and the caches of all layers."""

    layout: Layout
    keys: list[Tensor]  # a layer: [slots, kv_heads, head_dim]
    values: list[Tensor]

    def place(self, layer: int) -> Place:
        return Place(self.keys[layer], self.values[layer], self.layout.slots)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int, rule: Rule) -> Tensor:
        keys, values, layout = self.keys[layer], self.values[layer], self.layout
        parts: dict[int, Tensor] = {}  # by first row
        for pages in layout.pages:
            parts[pages.rows.start] = page_kernels.attend(
                q[pages.rows], keys, values, pages, rule.scale, rule.window, rule.softcap
            )
        for group in layout.decode:
            mask = layout.mask(group, rule.window)
            parts[group.rows.start] = _decode(q[group.rows], keys, values, group, mask, rule)
        for span in layout.prefill:
            rows = span.rows
            seen_k = k[rows] if span.slots is None else stored.read(keys, span.slots, q.dtype)
            seen_v = v[rows] if span.slots is None else stored.read(values, span.slots, q.dtype)
            parts[rows.start] = _prefill(q[rows], seen_k, seen_v, span, layout.mask(span, rule.window), rule)
        return next(iter(parts.values())) if len(parts) == 1 else torch.cat([parts[start] for start in sorted(parts)])


def register() -> None:
    """Make the attention known to transformers."""
    from transformers.modeling_utils import (
        ALL_ATTENTION_FUNCTIONS,  # two seconds, which the native runner needs not wait
    )

    ALL_ATTENTION_FUNCTIONS.register(NAME, _forward)


def _forward(
    module: nn.Module,
    query: Tensor,  # [1, heads, rows, head_dim]
    key: Tensor,  # [1, kv_heads, rows, head_dim]
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    paged: Step,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    rule = Rule(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap)
    layer: int = getattr(module, "layer_idx")  # noqa: B009  (torch types every attribute as a tensor)
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
    paged.place(layer).put(k, v)
    return paged.attend(q, k, v, layer, rule).unsqueeze(0), None


def _decode(q: Tensor, keys: Tensor, values: Tensor, group: DecodeGroup, mask: Tensor | None, rule: Rule) -> Tensor:
    rows, heads, head_dim = q.shape
    kv_heads = keys.shape[1]
    k = stored.read(keys, group.slots, q.dtype).view(rows, group.width, kv_heads, head_dim).transpose(1, 2)
    v = stored.read(values, group.slots, q.dtype).view(rows, group.width, kv_heads, head_dim).transpose(1, 2)
    # The query heads that share a kv head become the "query length": no key is copied, and none is ahead of the query.
    grouped = q.reshape(rows, kv_heads, heads // kv_heads, head_dim)
    return _attend(grouped, k, v, mask, rule).reshape(rows, heads, head_dim)


def _prefill(q: Tensor, k: Tensor, v: Tensor, span: PrefillSpan, mask: Tensor | None, rule: Rule) -> Tensor:
    chunk, groups = q.shape[0], q.shape[1] // k.shape[1]
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    if rule.softcap is None:
        if mask is not None and q.is_cuda:
            # CUDA's fused kernels take a mask or shared kv heads; with both, torch would make all scores in memory.
            k, v, groups = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), 1
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=rule.scale, enable_gqa=groups > 1
        )
        return out[0].transpose(0, 1)
    if mask is None:
        mask = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return _attend(q, k, v, mask, rule)[0].transpose(0, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rule: Rule) -> Tensor:
    if rule.softcap is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=rule.scale)
    # Soft-capped scores (Gemma 2) are not in torch's fused attention.
    scores = torch.tanh(q @ k.transpose(-1, -2) * (rule.scale / rule.softcap)) * rule.softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
