"""RMS norms as one kernel: which of them, and that a model comes out the same."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cortex_neuron.layers.fused_norm import fuse_norms

SMALL = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "norms"),
    [
        ("llama", 5),
        ("mistral", 5),
        ("qwen2", 5),
        ("qwen3", 9),
        ("phi3", 5),
        ("smollm3", 5),
        ("gemma", 0),
        ("gemma2", 0),
    ],
)
@torch.inference_mode()
def test_plain_norms_are_fused_and_a_model_comes_out_the_same(model_type: str, norms: int) -> None:
    """Gemma's are none of them, and stay."""
    torch.manual_seed(4)
    config = AutoConfig.for_model(model_type, **SMALL, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    given = torch.arange(20)[None]
    before = model(given).logits
    assert fuse_norms(model) == norms
    assert "forward" in vars(model.model.norm) if norms else "forward" not in vars(model.model.norm)
    torch.testing.assert_close(model(given).logits, before, atol=1e-4, rtol=1e-4)
