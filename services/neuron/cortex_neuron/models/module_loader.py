"""A model as a module of transformers' own classes, whole or a rank's share, on its device.

Owns: which class reads it, and what is refused of its files. Does not own: names and formats (models.gguf_*,
transformers), or how a share is made (models.sharded_model). Called by: models.loader and models.vector_loader.

These classes take two seconds to import, so nothing that does without them imports this.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from cortex_neuron.layers import attention, fusing
from cortex_neuron.layers.memory_order import order_for_cpu
from cortex_neuron.models import experts, gguf_model, prequantised, rounding, sharded_model
from cortex_neuron.models.asked import Asked, Progress
from cortex_neuron.models.gguf_file import GgufFile
from cortex_neuron.models.sharding import Sharding
from cortex_neuron.models.weights import SafetensorsFolder, WeightSource, WholeTensors
from cortex_neuron.protocol.failures import CannotLoad

disable_progress_bar()  # a rank writes to the log of a service


def config_of_folder(path: Path) -> Any:
    """As transformers' own class has it."""
    return AutoConfig.from_pretrained(path, local_files_only=True)


def config_of_gguf(file: GgufFile) -> Any:
    """The same of a GGUF file. Raises CannotLoad for an architecture or a rope scaling that is not supported."""
    return AutoConfig.for_model(**gguf_model.read_config_values(file))


def of_gguf(asked: Asked, file: GgufFile, config: Any) -> Any:
    """The file's model. Raises CannotLoad."""
    attention.register()
    dtype = gguf_dtype(asked.device)
    if asked.collectives is None:
        module = whole_gguf(file, config, dtype, asked.threads, attention.NAME)
    else:
        weights, factors = gguf_model.read_weights(file, config, asked.threads)
        asked.progress("model", 0.7)
        module = _share(WholeTensors(asked.path, weights), config, dtype, asked)
        _rescale(module, factors)
    return _placed(module, asked)


def of_folder(asked: Asked, config: Any) -> Any:
    """The folder's model. Raises CannotLoad."""
    attention.register()
    # On a CPU without bfloat16 instructions only float32 is fast, and exact.
    dtype = torch.float32 if asked.on_cpu else None
    if asked.collectives is None and prequantised.settings(config) is not None:
        return _placed(_read_by_transformers(asked, dtype, config=prequantised.as_read(config)), asked)
    try:
        source = SafetensorsFolder(asked.path)
        module = _share(source, config, dtype or config.dtype or source.dtype(), asked)
    except CannotLoad:
        if asked.collectives is not None:
            raise
        # It knows more names and formats; and has its own words for what is wrong with a file.
        module = _read_by_transformers(asked, dtype)
    return _placed(module, asked)


def _read_by_transformers(asked: Asked, dtype: torch.dtype | None, **options: Any) -> Any:
    options |= {"dtype": dtype or "auto", "attn_implementation": attention.NAME}
    return from_folder(AutoModelForCausalLM, asked.path, **options)


def gguf_dtype(device: torch.device) -> torch.dtype:
    """What a GGUF file's weights are computed in, once they are dequantised."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def whole_gguf(file: GgufFile, config: Any, dtype: torch.dtype, threads: int, attention_name: str) -> Any:
    """A causal model of transformers with the file's weights. Raises CannotLoad."""
    weights, factors = gguf_model.read_weights(file, config, threads)
    # A class of its own, because the automatic one takes no weights without a name.
    kind = AutoModelForCausalLM._model_mapping[type(config)]
    assert issubclass(kind, PreTrainedModel)
    options = _REPORTED | {"attn_implementation": attention_name}
    module = whole(file.path, *kind.from_pretrained(None, config=config, state_dict=weights, dtype=dtype, **options))
    _rescale(module, factors)
    return module


def _rescale(module: Any, factors: torch.Tensor | None) -> None:
    """Llama 3's factors [rotary / 2], which divide the frequencies of rotation."""
    if factors is not None:
        module.model.rotary_emb.inv_freq /= factors.to(module.model.rotary_emb.inv_freq.device)


def _placed(module: Any, asked: Asked) -> Any:
    return placed(module, asked.device, asked.quant)


def placed(module: Any, device: torch.device, quant: str | None = None) -> Any:
    """The module on its device, as that likes to compute it."""
    experts.choose(module)
    if device.type == "cpu":
        order_for_cpu(module)
    else:
        if quant is not None:
            rounding.round_weights(module, quant, device)
        fusing.fuse(module.eval(), device)
    return module.to(device).eval()


def _share(source: WeightSource, config: Any, dtype: torch.dtype, asked: Asked) -> Any:
    """This rank's of several, or all of it."""
    rank, world_size = (asked.collectives.rank, asked.collectives.world_size) if asked.collectives else (0, 1)
    try:
        sharding = Sharding(config, rank, world_size)
    except CannotLoad as refusal:
        raise CannotLoad(f"{source.path}: {refusal}") from refusal
    return sharded_model.build(source, sharding, dtype, asked.device, asked.collectives, _in_steps(asked.progress))


def _in_steps(progress: Progress) -> Callable[[float], None]:
    """Tells of every hundredth of the weights, as a part of the load."""
    told = 0.0

    def tell(share: float) -> None:
        nonlocal told
        if share >= told + 0.01:
            told = share
            progress("weights", 0.1 + 0.7 * share)

    return tell


_REPORTED: dict[str, Any] = {
    "output_loading_info": True,
    "ignore_mismatched_sizes": True,  # reported by `whole`
}


def whole(path: Path, module: Any, report: dict[str, Any]) -> Any:
    """The module, for `report` has no complaint: transformers fills what it does not find, or finds in another shape,
    with noise and a warning. Raises CannotLoad."""
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise CannotLoad(f"{path}: tensor {name} is {list(found)}, expected {list(expected)}")
    if missing := sorted(report["missing_keys"]):
        raise CannotLoad(f"{path}: the files lack tensor {', '.join(missing)}")
    return module


def from_folder(kind: Any, path: Path, **options: Any) -> Any:
    """The folder's model as this automatic class makes it. Raises CannotLoad."""
    return whole(path, *kind.from_pretrained(path, local_files_only=True, **_REPORTED, **options))
