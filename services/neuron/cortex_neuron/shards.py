"""How a model is divided over the ranks of a group: what must divide, and which part is whose.

Owns: the figures that are divided, the rule for each, and the one place that computes a part. Does not own: how a
config or a header is read (residency.architecture_check), or which parameter is cut where (models.sharding).
Called by: residency.architectures, before any process starts, and models.sharding, in every rank: one set of rules for
both, so it lies beside them and imports neither, nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

_MOST_RANKS = 64  # how far world sizes are looked for where the number of heads is not known


@dataclass(frozen=True, slots=True)
class Figures:
    """The counts that a group divides. None: the model has no such part, or its files do not say."""

    heads: int | None
    kv_heads: int | None
    ffn: int | None
    moe_ffn: int | None
    vocab: int | None


_WORDS = {
    "heads": "attention heads",
    "kv_heads": "kv heads",
    "ffn": "rows of its feed-forward layers",
    "moe_ffn": "rows of its experts",
    "vocab": "tokens of its vocabulary",
}


def figures_of(config: Mapping[str, Any]) -> Figures:
    """Read off a transformers config, or the config.json that it is made from. What is no count is None."""
    heads = _count(config.get("num_attention_heads"))
    kv_heads = heads if config.get("num_key_value_heads", 0) is None else _count(config.get("num_key_value_heads"))
    ffn = _count(config.get("intermediate_size"))
    moe_ffn = None
    if config.get("model_type") == "mixtral":
        ffn, moe_ffn = None, ffn
    elif config.get("model_type") == "qwen3_moe":
        moe_ffn = _count(config.get("moe_intermediate_size"))
        if config.get("decoder_sparse_step", 1) == 1 and not config.get("mlp_only_layers"):
            ffn = None  # every layer has experts: the figure stands in the config, and is of no layer
    return Figures(heads, kv_heads, ffn, moe_ffn, _count(config.get("vocab_size")))


def figures_of_gguf(metadata: Mapping[str, Any], architecture: str) -> Figures:
    """Read off a GGUF header. `metadata` may have the length of an array in the array's place."""
    heads = _count(metadata.get(f"{architecture}.attention.head_count"))
    kv_heads = metadata.get(f"{architecture}.attention.head_count_kv", heads)
    tokens = metadata.get("tokenizer.ggml.tokens")
    ffn, moe_ffn = _count(metadata.get(f"{architecture}.feed_forward_length")), None
    if metadata.get(f"{architecture}.expert_count"):  # every layer has experts, of a length of their own or of that one
        ffn, moe_ffn = None, _count(metadata.get(f"{architecture}.expert_feed_forward_length", ffn))
    return Figures(
        heads=heads,
        kv_heads=_count(kv_heads),
        ffn=ffn,
        moe_ffn=moe_ffn,
        vocab=len(tokens) if isinstance(tokens, list) else _count(tokens),
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def fault(figures: Figures, world_size: int) -> str | None:
    """Why the model cannot be divided over so many ranks, and over how many it can; None where it can."""
    lacking = [name for name in _WORDS if not _divides(name, getattr(figures, name), world_size)]
    if not lacking:
        return None
    counts = " and ".join(f"{getattr(figures, name)} {_WORDS[name]}" for name in lacking)
    return f"{counts} cannot be divided over {world_size} ranks; this model can run on {_choice(world_sizes(figures))}"


def world_sizes(figures: Figures) -> list[int]:
    """The numbers of ranks that the model can run on."""
    names = [field.name for field in fields(figures)]
    candidates = range(1, (figures.heads or _MOST_RANKS) + 1)
    return [size for size in candidates if all(_divides(name, getattr(figures, name), size) for name in names)]


def _divides(name: str, count: int | None, world_size: int) -> bool:
    if count is None or count % world_size == 0:
        return True
    # Fewer kv heads than ranks: each rank has the one that its query heads use, and each head as many ranks.
    return name == "kv_heads" and world_size % count == 0


def _choice(sizes: list[int]) -> str:
    *most, last = map(str, sizes)
    return f"{', '.join(most)} or {last}" if most else last


def part(count: int, world_size: int, rank: int) -> tuple[int, int]:
    """The first of `count` things that the rank has, and the one after its last."""
    each, rest = divmod(count, world_size)
    assert rest == 0, f"{count} over {world_size} ranks: fault() says so before"
    return rank * each, (rank + 1) * each


def kv_part(kv_heads: int, world_size: int, rank: int) -> tuple[int, int]:
    """The same for kv heads: where there are fewer than ranks, the one that the rank's query heads use."""
    if kv_heads >= world_size:
        return part(kv_heads, world_size, rank)
    head = rank * kv_heads // world_size
    return head, head + 1
