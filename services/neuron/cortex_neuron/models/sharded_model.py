"""A rank's share of a model, or all of it, in memory: built small, filled with its part of the weights, its layers put
in parallel.

Owns: these steps, and what is refused of a checkpoint. Does not own: what a rank has (models.sharding), where it lies
(models.checkpoint, models.weights), or the layers' arithmetic (layers.parallel). Called by: models.loader.

The share is a model of transformers with a smaller config, so that whatever a model class derives from the numbers of
its config is right on every rank. Weights go from the files to where they stay, once. Nothing here is global: other
models may live in the process.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from cortex_neuron.layers import attention
from cortex_neuron.layers.parallel import (
    Collectives,
    RowParallelLinear,
    SummedExperts,
    VocabParallelEmbedding,
    VocabParallelHead,
)
from cortex_neuron.models.checkpoint import Piece, pieces
from cortex_neuron.models.placing import Placing
from cortex_neuron.models.sharding import EMBEDDING, HEAD, Sharding, Style
from cortex_neuron.models.weights import WeightSource
from cortex_neuron.protocol.failures import CannotLoad

_EMBEDDING_WEIGHT, _HEAD_WEIGHT = f"{EMBEDDING}.weight", f"{HEAD}.weight"
# Old checkpoints have it in every layer; it follows from the config.
_DERIVED = re.compile(r".*rotary_emb\.inv_freq")
_MOST_NAMES = 8  # in a message


def build(
    source: WeightSource,
    sharding: Sharding,
    dtype: torch.dtype,
    device: torch.device,
    collectives: Collectives | None,
    progress: Callable[[float], None] = lambda _: None,
) -> Any:
    """The rank's module, on the device; without collectives that is the whole model. `progress` is told what share of
    it is read. Raises CannotLoad, which names the file and the tensor."""
    whole, local = _on_meta(copy.deepcopy(sharding.config), dtype), _on_meta(sharding.local_config(), dtype)
    _make_buffers(local, device)
    shapes = _shapes(whole, source)
    for name, shape in shapes.items():
        expected = cut.shape(shape) if (cut := sharding.cut(name, shape)) else shape
        assert [*local.get_parameter(name).shape] == expected, f"{name} is not cut as the small model has it"
    _fill(local, _needed(shapes, sharding, source), source, device, progress)
    if collectives is not None:
        _put_in_parallel(local, sharding, collectives)
    return local


def _on_meta(config: Any, dtype: torch.dtype) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention.NAME)


@torch.no_grad()
def _make_buffers(local: Any, device: torch.device) -> None:
    """Rotations and scales, which are in no checkpoint: by transformers' own initialisation of their modules."""
    for module in list(local.modules()):
        buffers = dict(module.named_buffers(recurse=False))
        for name, buffer in buffers.items():
            setattr(module, name, torch.full_like(buffer, torch.nan, device=device))
        if buffers:
            local._init_weights(module)  # its parameters are on meta still, where this does nothing
        for name, buffer in module.named_buffers(recurse=False):
            assert not buffer.isnan().any(), f"{type(module).__name__}.{name} was not initialised"


# ---- the weights


def _shapes(whole: Any, source: WeightSource) -> dict[str, list[int]]:
    """Of the whole model's parameters; the head's also where it is tied, if the checkpoint has one of its own."""
    shapes = {name: list(parameter.shape) for name, parameter in whole.named_parameters()}
    if _HEAD_WEIGHT in source.names():
        shapes.setdefault(_HEAD_WEIGHT, shapes[_EMBEDDING_WEIGHT])
    return shapes


def _needed(shapes: dict[str, list[int]], sharding: Sharding, source: WeightSource) -> dict[str, list[Piece]]:
    """For each parameter of the rank, what to read; the checkpoint has all of it in the right shapes, and no more."""
    stored = source.names()
    model_type = sharding.config.model_type
    needed = {
        name: pieces(model_type, name, shape, sharding.cut(name, shape), stored) for name, shape in shapes.items()
    }
    _check({piece.stored: piece for found in needed.values() for piece in found}, source)
    return needed


def _check(needed: dict[str, Piece], source: WeightSource) -> None:
    stored = source.names()
    if missing := sorted(needed.keys() - stored):
        raise CannotLoad(f"{source.path}: the files lack tensor {_listed(missing)}")
    if surplus := sorted(name for name in stored - needed.keys() if not _DERIVED.fullmatch(name)):
        raise CannotLoad(f"{source.file_of(surplus[0])}: the model has no place for tensor {_listed(surplus)}")
    for name, piece in needed.items():
        if (found := source.shape(name)) != piece.shape:
            raise CannotLoad(f"{source.file_of(name)}: tensor {name} is {[*found]}, expected {[*piece.shape]}")


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


@torch.no_grad()
def _fill(
    local: Any,
    needed: dict[str, list[Piece]],
    source: WeightSource,
    device: torch.device,
    progress: Callable[[float], None],
) -> None:
    placing = Placing(device)
    num_all, num_filled = sum(local.get_parameter(name).numel() for name in needed), 0
    for name, found in needed.items():
        parameter = torch.empty_like(local.get_parameter(name), device=device)
        for piece in found:
            placing.copy(_place(parameter, piece), source.read(piece.stored, piece.dim, piece.part))
        _set(local, name, parameter)
        num_filled += parameter.numel()
        progress(num_filled / num_all)
    placing.done()
    head, embedding = local.get_submodule(HEAD), local.get_submodule(EMBEDDING)
    if local.config.tie_word_embeddings and (head.weight.is_meta or torch.equal(head.weight, embedding.weight)):
        head.weight = embedding.weight  # one tensor, as before; those that differ are two whatever the config says


def _place(parameter: Tensor, piece: Piece) -> Tensor:
    into = parameter if piece.expert is None else parameter[piece.expert]
    return into.narrow(piece.dim, piece.at, piece.part[1] - piece.part[0])


def _set(local: Any, name: str, parameter: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(local.get_submodule(owner), leaf, nn.Parameter(parameter, requires_grad=False))


# ---- the layers


def _put_in_parallel(local: Any, sharding: Sharding, collectives: Collectives) -> None:
    for name, module in list(local.named_modules()):
        if (parallel := _parallel(name, module, sharding, collectives)) is not None:
            local.set_submodule(name, parallel)


def _parallel(name: str, module: nn.Module, sharding: Sharding, collectives: Collectives) -> nn.Module | None:
    """What takes the module's place, if something does."""
    if name == EMBEDDING:
        assert isinstance(module, nn.Embedding)
        return VocabParallelEmbedding(module, sharding.first_token(), collectives)
    style = sharding.style(name)
    if style is Style.SUMMED:
        return SummedExperts(module, collectives)
    if isinstance(module, nn.Linear):
        if name == HEAD:
            return VocabParallelHead(module, collectives)
        if style is Style.INPUTS:
            return RowParallelLinear(module, collectives)
    return None
