"""The demo model as a folder of safetensors, for engines that read no GGUF files."""

from __future__ import annotations

from pathlib import Path

from neuron_process import DEMO_MODEL


def write_demo_folder(folder: Path) -> Path:
    """The same weights, dequantised."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cortex_neuron.models import gguf_model
    from cortex_neuron.models.gguf_file import GgufFile

    file = GgufFile(DEMO_MODEL)
    config = gguf_model.read_config(file)
    weights, _ = gguf_model.read_weights(file, config, threads=1)
    module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    module.load_state_dict(weights, strict=False)
    module.tie_weights()
    module.save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEMO_MODEL.parent, gguf_file=DEMO_MODEL.name).save_pretrained(folder)
    return folder
