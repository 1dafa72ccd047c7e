"""A model that makes a vector of a text, or a score of a pair of texts.

Owns: a batch of such texts through a model of transformers, padded on the right, and the pooling. Does not own: reading
the model (models.vector_loader), or which texts share a batch (engine.vector_batch). Called by: engine.vector_engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cortex_neuron.protocol.frames import Pooling

Row = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class VectorModel:
    """`pooling` None: a model for sequence classification with one label, whose sigmoid is the score."""

    module: Any
    device: torch.device
    pooling: Pooling | None
    context: int  # tokens of the longest text
    has_types: bool  # it tells the two texts of a pair by the segments of their tokens

    @property
    def size(self) -> int:
        """Numbers of a vector; 1 of a score."""
        return 1 if self.pooling is None else int(self.module.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        return int(self.module.config.vocab_size)

    @property
    def num_bytes(self) -> int:
        """Of the weights; tied ones count once."""
        storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in self.module.parameters()}
        return sum(storages.values())

    def watch(self, tick: Callable[[], None]) -> None:
        """Have `tick` called behind each layer from now on."""
        for layers in self.module.modules():
            if isinstance(layers, nn.ModuleList):
                for layer in layers:
                    layer.register_forward_hook(lambda *_: tick())

    @torch.inference_mode()
    def run(self, rows: Sequence[Row], types: Sequence[Row | None]) -> Tensor:
        """float32 [rows, size] on the CPU: pooled and not yet normalised, or scores."""
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        longest = max(map(len, rows))
        inputs = {"input_ids": self._padded(rows, self.module.config.pad_token_id or 0)}
        if min(map(len, rows)) < longest:  # without padding there is nothing to mask, and no mask is faster
            inputs["attention_mask"] = (torch.arange(longest, device=self.device) < lengths[:, None]).long()
        if self.has_types:
            filled = [np.zeros(len(row), np.int32) if of is None else of for row, of in zip(rows, types, strict=True)]
            inputs["token_type_ids"] = self._padded(filled, 0)
        output = self.module(**inputs)
        if self.pooling is None:
            scores: Tensor = torch.sigmoid(output.logits.float())
            return scores.cpu()
        return _pooled(output.last_hidden_state.float(), lengths, self.pooling.mode).cpu()

    def _padded(self, rows: Sequence[Row], padding: int) -> Tensor:
        """int64 [rows, longest]"""
        padded = np.full((len(rows), max(map(len, rows))), padding, np.int64)
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        return torch.from_numpy(padded).to(self.device)


def _pooled(hidden: Tensor, lengths: Tensor, mode: str) -> Tensor:
    """[rows, tokens, size] to [rows, size]"""
    if mode == "cls":
        return hidden[:, 0]
    if mode == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    mask = (torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]).unsqueeze(-1)
    return (hidden * mask).sum(1) / lengths[:, None]


def finished(pooled: Tensor, dimensions: int | None, *, normalize: bool) -> Tensor:
    """One vector [size] as it is told: cut to so many numbers, and then of length 1, as one is that was not cut."""
    cut = pooled if dimensions is None else pooled[:dimensions]
    return functional.normalize(cut, dim=0) if normalize or len(cut) < len(pooled) else cut
