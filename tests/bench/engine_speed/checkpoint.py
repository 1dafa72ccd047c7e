"""The demo model for who does not read its file: its tokenizer, and a folder of the same weights in float32.

Both are written once and kept under build/. Called by: servers.py, prompts.py, the integration tests of vLLM.
"""

from __future__ import annotations

from pathlib import Path

from tests.bench.processes import DEMO_MODEL, ROOT

_KEPT = ROOT / "build/bench"
_LAST_WRITTEN = "tokenizer_config.json"


def tokenizer_file() -> Path:
    """tokenizer.json, as the neuron reads it out of the file."""
    from cortex_neuron.models import text_files
    from cortex_neuron.models.gguf_file import GgufFile

    folder = _KEPT / "smollm2-text"
    text_files.write_once(folder, DEMO_MODEL, lambda path: text_files.write_from_gguf(GgufFile(DEMO_MODEL), path))
    return folder / "tokenizer.json"


def float32_folder() -> Path:
    """A folder of safetensors, some 540 MB."""
    folder = _KEPT / "smollm2-float32"
    if not (folder / _LAST_WRITTEN).exists():
        write_float32(folder)
    return folder


def write_float32(folder: Path) -> Path:
    """The same weights, dequantised."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cortex_neuron.models import gguf_model, module_loader
    from cortex_neuron.models.gguf_file import GgufFile

    file = GgufFile(DEMO_MODEL)
    config = module_loader.config_of_gguf(file)
    weights, _ = gguf_model.read_weights(file, config, threads=1)
    module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    module.load_state_dict(weights, strict=False)
    module.tie_weights()
    module.save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEMO_MODEL.parent, gguf_file=DEMO_MODEL.name).save_pretrained(folder)
    return folder
