"""Where the pieces of a rank's parameter lie in a checkpoint. Pure.

Owns: the names under which checkpoints store what transformers keeps otherwise: a tensor for each projection of each
expert, where the model has one of all experts and both projections. Does not own: what is cut (models.sharding) or the
files (models.weights). Called by: models.sharded_model and models.native_files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cortex_neuron.models.sharding import Cut, Range


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of a stored tensor, and its place in the rank's parameter."""

    stored: str
    shape: tuple[int, ...]  # that the stored tensor must have, whole
    dim: int  # counted from the end
    part: Range
    expert: int | None  # of a parameter of all experts
    at: int  # where in `dim` of the parameter, or of the expert's row


@dataclass(frozen=True, slots=True)
class _ExpertNames:
    """In a layer: the block, and the tensors that are joined to each of the two fused parameters."""

    block: str
    gate_up: tuple[str, str]
    down: str

    def joined(self, fused: str) -> tuple[str, ...]:
        return self.gate_up if fused == "gate_up_proj" else (self.down,)


_EXPERTS = {
    "qwen3_moe": _ExpertNames("mlp", ("gate_proj", "up_proj"), "down_proj"),
    "mixtral": _ExpertNames("block_sparse_moe", ("w1", "w3"), "w2"),
}
_FUSED = re.compile(r"(.+)\.mlp\.experts\.(gate_up_proj|down_proj)")
_ROUTER = re.compile(r"(.+)\.mlp\.gate\.weight")


def pieces(
    model_type: str, parameter: str, shape: Sequence[int], cut: Cut | None, stored: Collection[str]
) -> list[Piece]:
    """What to read for a parameter of this whole shape from a checkpoint that has the tensors `stored`."""
    experts = _EXPERTS.get(model_type)
    if experts is None or parameter in stored:
        return _plain(parameter, shape, cut)
    if fused := _FUSED.fullmatch(parameter):
        names = [f"{fused[1]}.{experts.block}.experts.{{}}.{name}.weight" for name in experts.joined(fused[2])]
        return _of_experts(names, shape, cut)
    if router := _ROUTER.fullmatch(parameter):
        return _plain(f"{router[1]}.{experts.block}.gate.weight", shape, cut)
    return _plain(parameter, shape, cut)


def router(model_type: str, layer: str) -> str:
    """The stored name of a layer's router."""
    return f"{layer}.{_EXPERTS[model_type].block}.gate.weight"


def expert(model_type: str, layer: str, number: int, projection: str) -> str:
    """The stored name of one projection, gate_proj, up_proj or down_proj, of one expert of a layer."""
    names = _EXPERTS[model_type]
    stored = dict(zip(("gate_proj", "up_proj", "down_proj"), (*names.gate_up, names.down), strict=True))[projection]
    return f"{layer}.{names.block}.experts.{number}.{stored}.weight"


def _plain(stored: str, shape: Sequence[int], cut: Cut | None) -> list[Piece]:
    cut = cut or Cut(-1, ((0, shape[-1]),))
    found, at = [], 0
    for first, end in cut.ranges:
        found.append(Piece(stored, tuple(shape), cut.dim, (first, end), None, at))
        at += end - first
    return found


def _of_experts(names: list[str], shape: Sequence[int], cut: Cut | None) -> list[Piece]:
    """`names`, with a place for the expert's number, are joined along the dimension that is cut: a range in each."""
    assert cut is not None, "experts are always cut"
    assert len(cut.ranges) == len(names), "a range for each of the joined tensors"
    each = list(shape[1:])
    each[cut.dim] //= len(names)
    found = []
    for expert in range(shape[0]):
        at = 0
        for number, (name, (first, end)) in enumerate(zip(names, cut.ranges, strict=True)):
            before = number * each[cut.dim]
            part = (first - before, end - before)
            found.append(Piece(name.format(expert), tuple(each), cut.dim, part, expert, at))
            at += end - first
    return found
