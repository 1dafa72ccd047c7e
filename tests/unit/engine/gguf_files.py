"""GGUF files of small models with random weights, as llama.cpp's converter writes them, for tests of who reads them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, dequantize, quantize
from gguf.constants import MODEL_ARCH_NAMES
from gguf.tensor_mapping import get_tensor_name_map
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB = 64
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
SLIDING = {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 32}
# So that a thread takes several panels at once, of more than one expert.
EXPERTS = {"hidden_size": 256, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 160}
# (architecture, model_type, more of the config, more of the metadata)
FILES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", "llama", {}, {}),
    "mixtral": (
        "llama",
        "mixtral",
        {"num_local_experts": 5, "num_experts_per_tok": 2},
        {"expert_count": 5, "expert_used_count": 2},
    ),
    "qwen2": ("qwen2", "qwen2", {}, {}),
    "qwen3": ("qwen3", "qwen3", {"tie_word_embeddings": True}, {}),
    "qwen3_moe": (
        "qwen3moe",
        "qwen3_moe",
        {"norm_topk_prob": True, **EXPERTS},
        {"expert_count": 6, "expert_used_count": 3, "expert_feed_forward_length": 160},
    ),
    "gemma2": (
        "gemma2",
        "gemma2",
        {**SLIDING, "tie_word_embeddings": True, "attn_logit_softcapping": 20.0},
        {"attention.sliding_window": 9, "attn_logit_softcapping": 20.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3": (
        "gemma3",
        "gemma3_text",
        {**SLIDING, "layer_types": ["sliding_attention"] * 2, "tie_word_embeddings": True},
        {"attention.sliding_window": 9},
    ),
    "gemma3 of a long context": (
        "gemma3",
        "gemma3_text",
        {
            **SLIDING,
            "num_hidden_layers": 6,
            "layer_types": [*["sliding_attention"] * 5, "full_attention"],
            "rope_parameters": {"full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}},
            "tie_word_embeddings": True,
        },
        {"attention.sliding_window": 9, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
    ),
}


def reference_of(model_type: str, more: dict[str, Any]) -> Any:
    torch.manual_seed(5)
    config = AutoConfig.for_model(model_type, **{**SMALL, **more})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def empty_tokenizer() -> Tokenizer:
    return Tokenizer.from_str('{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}')


def _as_llama_cpp_has_it(arch: str, name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """What llama.cpp's converter does to a tensor."""
    if arch == "llama" and name.rsplit(".", 2)[-2] in ("q_proj", "k_proj"):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        return tensor.view(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
    return tensor + 1 if arch.startswith("gemma") and name.endswith("norm.weight") else tensor


def _one_by_one(weights: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The projections of all experts apart, which transformers has in one parameter."""
    for name, tensor in weights.items():
        if name.endswith(".experts.gate_up_proj"):
            for part, half in zip(("gate_proj", "up_proj"), tensor.chunk(2, dim=1), strict=True):
                yield name.replace("gate_up_proj", f"{part}.weight"), half.contiguous()
        else:
            yield name if name.endswith((".weight", ".bias")) else f"{name}.weight", tensor


def write_gguf(
    path: Path,
    arch: str,
    model: Any,
    more: dict[str, Any],
    tensors: dict[str, torch.Tensor] | None = None,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
) -> None:
    """The model as llama.cpp's converter writes it; the names are the gguf package's. `kind`: of the layers' matrices,
    but for routers."""
    config = model.config
    writer = GGUFWriter(path, arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim or config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rotation = config.rope_parameters
    writer.add_rope_freq_base(rotation.get("full_attention", rotation)["rope_theta"])
    adders = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in more.items():
        adders[type(value)](f"{arch}.{key}", value)
    writer.add_tokenizer_model("gpt2" if not arch.startswith("gemma") else "llama")
    writer.add_token_list(["<s>", "</s>", "<|im_end|>", "01", *[chr(ord("0") + i) for i in range(VOCAB - 4)]])
    writer.add_token_types([3, 3, 3, *[1] * (VOCAB - 3)])
    writer.add_token_scores([0.0] * VOCAB)
    writer.add_token_merges(["0 1"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template("{{ messages }}")
    for name, tensor in (tensors or {}).items():
        writer.add_tensor(name, tensor.numpy())
    architecture = next(key for key, name in MODEL_ARCH_NAMES.items() if name == arch)
    names = get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, tensor in _one_by_one(model.state_dict()):
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        base, suffix = name.rsplit(".", 1)
        values = _as_llama_cpp_has_it(arch, name, tensor, config).numpy()
        stays = values.ndim == 1 or not base.endswith("_proj")
        data = values if stays else quantize(values, kind)
        writer.add_tensor(f"{names.get_name(base)}.{suffix}", data, raw_dtype=None if stays else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


LONG = random.Random(4).choices(range(4, VOCAB), k=300)
PROMPT = [5, 9, 30, 4, 4, 17, 8, 60, 33, 21, 2, 5, 9, 30]


def round_matrices(model: Any, kind: GGMLQuantizationType) -> None:
    """The model becomes that of a file which `write_gguf` has made of it with this kind."""
    for name, values in model.named_parameters():
        if "_proj" in name and values.dim() > 1:
            rows = values.detach().numpy().reshape(-1, values.shape[-1])
            values.data = torch.from_numpy(dequantize(quantize(rows, kind), kind)).view(values.shape)


def agrees(model: Any, reference: Any, start_with: Any) -> None:
    """Whether the engine's log-probabilities are the reference's, of a prompt alone and of two together."""
    session = start_with(model, blocks=16)
    for prompts in ([PROMPT], [[5, 9], [7]]):
        _have_the_logits_of(reference, prompts, session)


def agrees_in_a_crowd(model: Any, reference: Any, start_with: Any) -> None:
    """The same of long prompts in chunks beside short ones, of one that the cache has already, and of two short ones.

    There are more rows than a thread normalises for itself, then fewer; many threads divide contexts.
    """
    session = start_with(model, blocks=300, sequences=10, step_tokens=128)
    long = [[*LONG, start] for start in range(4, 12)]
    for prompts in ([[5], [7, 9, 11], *long], long[-1:], [[5, 9], [7]]):
        _have_the_logits_of(reference, prompts, session, max_tokens=3)
    assert max(answer.first.cached_tokens for answer in session.answers.values()) >= 280


def _have_the_logits_of(reference: Any, prompts: list[list[int]], session: Any, max_tokens: int = 6) -> None:
    ids = [session.submit(prompt, max_tokens=max_tokens, logprobs=10, ignore_eos=True) for prompt in prompts]
    session.finish()
    for prompt, number in zip(prompts, ids, strict=True):
        answer = session.answers[number]
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + answer.tokens])).logits[0, len(prompt) - 1 : -1]
        for row, got in zip(logits.log_softmax(-1), answer.logprobs, strict=True):
            assert got.top == pytest.approx(row[got.top_ids].tolist(), abs=2e-4)
