"""What a layer computes besides its products and its attention, each of it as one operation, in torch's own words.

Owns: the three operations, and the plain spelling, with which a trial on a CPU tells which modules compute just that,
and with which kernels are compared. Does not own: the kernels (layers.triton_fused). Called by: layers.fused_attention,
layers.fused_mlp, layers.fused_residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own spelling)
from torch import Tensor

from cortex_neuron.layers.stored import Place


@dataclass(frozen=True, slots=True)
class Angles:
    """By which the first `turned` numbers of each head are turned, the first half of these against the second."""

    cosines: Tensor  # [rows, turned]
    sines: Tensor


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """RMS norms of each head before it is turned (Qwen 3)."""

    query: Tensor  # [head_dim]
    key: Tensor
    epsilon: float


class Ops(Protocol):
    """None of them waits for the device, or has a shape that depends on values: all may be recorded in a graph."""

    def turn(
        self, q: Tensor, k: Tensor, v: Tensor, angles: Angles | None, norms: HeadNorms | None, place: Place
    ) -> tuple[Tensor, Tensor]:
        """q [rows, heads, head_dim] and k [rows, kv_heads, head_dim], normed and turned; k and v are in their place."""

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) * up, [..., width]"""

    def add_norm(self, residual: Tensor, addend: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """The sum, and its RMS norm, [..., hidden]"""


class PlainOps:
    """By torch's operations, one after the other."""

    def turn(
        self, q: Tensor, k: Tensor, v: Tensor, angles: Angles | None, norms: HeadNorms | None, place: Place
    ) -> tuple[Tensor, Tensor]:
        if norms is not None:
            q = F.rms_norm(q, q.shape[-1:], norms.query, norms.epsilon)
            k = F.rms_norm(k, k.shape[-1:], norms.key, norms.epsilon)
        if angles is not None:
            q, k = _turned(q, angles), _turned(k, angles)
        place.put(k, v)
        return q, k

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate) * up

    def add_norm(self, residual: Tensor, addend: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        total = residual + addend
        return total, F.rms_norm(total, total.shape[-1:], weight, epsilon)


def _turned(heads: Tensor, angles: Angles) -> Tensor:
    turned = angles.cosines.shape[-1]
    first, second = heads[..., : turned // 2], heads[..., turned // 2 : turned]
    against = torch.cat((-second, first), -1)
    found = heads[..., :turned] * angles.cosines[:, None] + against * angles.sines[:, None]
    return torch.cat((found, heads[..., turned:]), -1)
