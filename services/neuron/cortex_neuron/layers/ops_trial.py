"""Fused operations tried on this device before a model is served by them: do they run, and give what torch's give?

Owns: the trial. Does not own: what follows from it (layers.fusing). Called by: layers.fusing, once a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cortex_neuron.layers.fused_ops import Angles, HeadNorms, Ops, PlainOps
from cortex_neuron.layers.stored import FP8, Place

_PLAIN = PlainOps()
_ROWS, _SLOTS, _INNER, _EPSILON = 3, 8, 1500, 1e-5
# Of the larger of a number and 1. A number of bfloat16 is within 0.004 of what it stands for, and may be rounded twice.
_TOLERANCE = 0.015
_FP8_TOLERANCE = 0.14  # the next one, where a number lies between two


@dataclass(frozen=True, slots=True)
class Sizes:
    """What kernels are compiled for. `turned`: numbers of a head that are turned, 0 for none."""

    heads: int
    kv_heads: int
    head_dim: int
    turned: int
    is_normed: bool
    hidden: int
    dtype: torch.dtype


def fault(ops: Ops, sizes: Sizes, device: torch.device, *, with_fp8: bool = True) -> str | None:
    """What is wrong with them, in words; None if they are right. `with_fp8`: also into a cache of that."""
    try:
        return next(_faults(ops, sizes, device, with_fp8), None)
    except Exception as error:  # noqa: BLE001  whatever it is, torch has others
        return f"they failed a trial: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@torch.inference_mode()
def _faults(ops: Ops, sizes: Sizes, device: torch.device, with_fp8: bool) -> Iterator[str]:
    """What is expected is computed in float32, of the same numbers."""
    numbers = _Numbers(sizes.dtype, device)
    given = numbers.normal(1, _ROWS, 2 * _INNER).chunk(2, -1)
    yield from _differences("gate", [ops.gate(*given)], [_PLAIN.gate(*_wide(given))])
    added = [*numbers.normal(2, 1, _ROWS, sizes.hidden), numbers.weight(sizes.hidden)]
    found = ops.add_norm(added[0], added[1], added[2], _EPSILON)
    residual, addend, weight = _wide(added)
    yield from _differences("add_norm", found, _PLAIN.add_norm(residual, addend, weight, _EPSILON))
    heads = numbers.normal(_ROWS, sizes.heads + 2 * sizes.kv_heads, sizes.head_dim)
    angles = numbers.angles(_ROWS, sizes.turned) if sizes.turned else []
    norms = [numbers.weight(sizes.head_dim) for _ in range(2)] if sizes.is_normed else []
    for cached in (sizes.dtype, FP8) if with_fp8 else (sizes.dtype,):
        turned = _turned(ops, heads, angles, norms, _place(sizes, cached, device))
        wide = torch.float32 if cached is sizes.dtype else cached
        place = _place(sizes, wide, device)
        yield from _differences("turn", turned, _turned(_PLAIN, heads.float(), _wide(angles), _wide(norms), place))


def _turned(ops: Ops, heads: Tensor, angles: list[Tensor], norms: list[Tensor], place: Place) -> list[Tensor]:
    """q, k and what of k and v is in the cache; `heads` are views of one product, as those of a model are."""
    kv_heads = place.keys.shape[1]
    q, k, v = heads.split([heads.shape[1] - 2 * kv_heads, kv_heads, kv_heads], 1)
    turning = Angles(angles[0], angles[1]) if angles else None
    q, k = ops.turn(q, k, v, turning, HeadNorms(norms[0], norms[1], _EPSILON) if norms else None, place)
    return [q, k, place.keys, place.values]


class _Numbers:
    """Such as a model has, random and the same each time."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._random = torch.Generator().manual_seed(1)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._random).to(self._device, self._dtype)

    def weight(self, width: int) -> Tensor:
        return self.normal(width).abs() + 0.5

    def angles(self, rows: int, turned: int) -> list[Tensor]:
        """Cosines and sines."""
        angles = torch.randn(rows, turned, generator=self._random) * 3
        return [each.to(self._device, self._dtype) for each in (angles.cos(), angles.sin())]


def _wide(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [each.float() for each in tensors]


def _place(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Place:
    shape = (_SLOTS, sizes.kv_heads, sizes.head_dim)
    keys, values = (torch.zeros(shape, device=device).to(dtype) for _ in range(2))
    return Place(keys, values, torch.tensor([5, 0, 2], device=device))


def _differences(name: str, found: Sequence[Tensor], expected: Sequence[Tensor]) -> Iterator[str]:
    for one, other in zip(found, expected, strict=True):
        close = _FP8_TOLERANCE if one.dtype is FP8 else _TOLERANCE
        one, other = one.float(), other.float()
        off = float(((one - other).abs() / other.abs().clamp(min=1)).nan_to_num(torch.inf).max())
        if one.shape != other.shape or off > close:
            yield f"they failed a trial: {name} is {off:.3g} off"
