"""The layers of a model that is divided over ranks, and what they need to compute together.

Owns: the arithmetic, after Megatron-LM (arXiv 1909.08053): a column-parallel layer is a plain one with fewer rows, and
the row-parallel one after it sums over the ranks; embedding and head are divided by vocabulary. Does not own: who has
which rows (models.sharding), or the wires (engine.communicator).
Called by: the forward of a model that models.sharded_model has put together.

Each wraps the layer that transformers made, with this rank's weights: a subclass keeps what it does besides, as Gemma's
embedding keeps its scale, and whatever looks for nn.Linear or nn.Embedding finds the local product.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn


class Collectives(Protocol):
    """What ranks compute together. Every rank calls the same ones in the same order, or all wait.

    `num_entered` counts them, those under way included; who runs some that were recorded counts them himself.
    """

    rank: int
    world_size: int
    num_entered: int

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place; `tensor` is contiguous and of one shape on every rank."""

    def gather(self, tensor: Tensor) -> Tensor | None:
        """[..., n] of each rank -> [..., n * world_size] at rank 0, None elsewhere."""

    def smallest(self, number: int) -> int:
        """Of the numbers that the ranks give; every rank gets it."""


class RowParallelLinear(nn.Module):
    """A linear layer of which each rank has some of the inputs."""

    def __init__(self, local: nn.Linear, collectives: Collectives) -> None:
        super().__init__()
        self.bias = local.bias
        local.register_parameter("bias", None)
        self.local = local
        self._collectives = collectives

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in / ranks] -> [..., out]; the bias is added once, to the sum."""
        out = self._collectives.all_reduce(self.local(inputs).contiguous())
        return out if self.bias is None else out + self.bias


class VocabParallelEmbedding(nn.Module):
    """An embedding of which each rank has the tokens from `first` on."""

    def __init__(self, local: nn.Embedding, first: int, collectives: Collectives) -> None:
        super().__init__()
        self.local = local
        self._first = first
        self._collectives = collectives

    def forward(self, ids: Tensor) -> Tensor:
        """[...] -> [..., hidden]; the rank that has a token gives its row, the others zeros."""
        own = ids - self._first
        foreign = (own < 0) | (own >= self.local.num_embeddings)
        rows = self.local(own.masked_fill(foreign, 0)).masked_fill(foreign.unsqueeze(-1), 0)
        return self._collectives.all_reduce(rows.contiguous())


class VocabParallelHead(nn.Module):
    """The head, of which each rank has some of the tokens."""

    def __init__(self, local: nn.Linear, collectives: Collectives) -> None:
        super().__init__()
        self.local = local
        self._collectives = collectives

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., hidden] -> [..., vocab] at rank 0, which samples; elsewhere [..., vocab / ranks], for nobody."""
        local: Tensor = self.local(hidden)
        whole = self._collectives.gather(local)
        return local if whole is None else whole


class SummedExperts(nn.Module):
    """Experts of which each rank has all, each with some of its inner rows. Every rank routes alike."""

    def __init__(self, local: nn.Module, collectives: Collectives) -> None:
        super().__init__()
        self.local = local
        self._collectives = collectives

    def forward(self, *inputs: Any) -> Tensor:
        """What the experts take -> [rows, hidden], summed."""
        return self._collectives.all_reduce(self.local(*inputs).contiguous())
