"""The configs of the models that native kernels compute: fields and defaults as transformers' classes have them.

Owns: the fields that are read here, their defaults (both of transformers' `configuration_*.py`; a test holds them to be
the same), and which configs are plain: say nothing whose meaning or refusal is transformers' own. Does not own: reading
others (models.strict_config, which needs transformers). Called by: models.loader, fork_source.

Importing transformers takes half a second, in a fork server and a rank that have no other use for it. Annotations are
values here, not text: values are checked by them.
"""

from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, ClassVar, get_args, get_origin

TokenIds = int | list[int] | None
# Where one of these says something, transformers knows what.
_NOT_PLAIN = ("quantization_config", "per_layer_config", "partial_rotary_factor", "original_max_position_embeddings")
_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
_ROPE_KEYS = frozenset({"rope_type", "rope_theta"})


@dataclass(eq=False, repr=False, kw_only=True)
class NativeConfig:
    """What all of them have."""

    model_type: ClassVar[str]
    default_theta: ClassVar[float] = 10000.0
    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    rope_parameters: dict[str, Any] | None = None
    bos_token_id: int | None = None
    eos_token_id: TokenIds = None
    pad_token_id: int | None = None

    def complete(self) -> None:
        """What follows from the others, where it was not said."""
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads


@dataclass(eq=False, repr=False, kw_only=True)
class _Llama(NativeConfig):
    model_type = "llama"
    bos_token_id: int | None = 1
    eos_token_id: TokenIds = 2


@dataclass(eq=False, repr=False, kw_only=True)
class _Mistral(NativeConfig):
    model_type = "mistral"
    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 4096 * 32
    sliding_window: int | None = 4096
    bos_token_id: int | None = 1
    eos_token_id: TokenIds = 2


@dataclass(eq=False, repr=False, kw_only=True)
class _Qwen2(NativeConfig):
    model_type = "qwen2"
    vocab_size: int = 151936
    intermediate_size: int = 22016
    num_key_value_heads: int | None = 32
    max_position_embeddings: int = 32768
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = 28
    layer_types: list[str] | None = None

    def complete(self) -> None:
        self.sliding_window = self.sliding_window if self.use_sliding_window else None
        if self.layer_types is None:
            slides = [
                self.sliding_window is not None and i >= self.max_window_layers for i in range(self.num_hidden_layers)
            ]
            self.layer_types = ["sliding_attention" if each else "full_attention" for each in slides]
        super().complete()


@dataclass(eq=False, repr=False, kw_only=True)
class _Qwen3(_Qwen2):
    model_type = "qwen3"
    head_dim: int | None = 128


@dataclass(eq=False, repr=False, kw_only=True)
class _SmolLM3(NativeConfig):
    model_type = "smollm3"
    default_theta = 2000000.0
    vocab_size: int = 128256
    hidden_size: int = 2048
    num_hidden_layers: int = 36
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 4
    max_position_embeddings: int = 32768
    tie_word_embeddings: bool = True
    use_sliding_window: bool = False
    sliding_window: int | None = None
    no_rope_layers: list[int] | None = None
    no_rope_layer_interval: int = 4
    layer_types: list[str] | None = None
    bos_token_id: int | None = 128000
    eos_token_id: TokenIds = 128001
    pad_token_id: int | None = 128004

    def complete(self) -> None:
        if self.no_rope_layers is None:
            layers = range(1, self.num_hidden_layers + 1)
            self.no_rope_layers = [int(layer % self.no_rope_layer_interval != 0) for layer in layers]
        if self.layer_types is None:
            may_slide = self.use_sliding_window and self.sliding_window is not None
            slides = [may_slide and not rotated for rotated in self.no_rope_layers]
            self.layer_types = ["sliding_attention" if each else "full_attention" for each in slides]
        super().complete()


CLASSES: dict[str, type[NativeConfig]] = {
    each.model_type: each for each in (_Llama, _Mistral, _Qwen2, _Qwen3, _SmolLM3)
}


def plain(values: dict[str, Any]) -> NativeConfig | None:
    """What a config.json says, where it is of a kind that kernels compute and says nothing unusual."""
    kind = CLASSES.get(values.get("model_type", ""))
    if kind is None or any(values.get(key) is not None for key in _NOT_PLAIN):
        return None
    known = {each.name: values[each.name] for each in fields(kind) if each.name in values}
    rope = _plain_rope(values, kind)
    if rope is None or not all(_fits(known[each.name], each.type) for each in fields(kind) if each.name in known):
        return None
    config = kind(**known | {"rope_parameters": rope})
    config.complete()
    return config if _has_a_type_each(config) else None


def _plain_rope(values: dict[str, Any], kind: type[NativeConfig]) -> dict[str, Any] | None:
    """How positions are turned, where nothing is scaled."""
    said = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(said, dict) or not said.keys() <= _ROPE_KEYS:
        return None
    rope = {"rope_theta": values.get("rope_theta", kind.default_theta), "rope_type": "default"} | said
    plain_theta = type(rope["rope_theta"]) in (int, float)
    return rope if plain_theta and rope["rope_type"] == "default" else None


def _fits(value: Any, wanted: Any) -> bool:
    """Whether it is of just that type, and so is what is in a list."""
    if isinstance(wanted, UnionType):
        return any(_fits(value, each) for each in get_args(wanted))
    if get_origin(wanted) is list:
        return type(value) is list and all(_fits(each, get_args(wanted)[0]) for each in value)
    return type(value) is (get_origin(wanted) or wanted)


def _has_a_type_each(config: NativeConfig) -> bool:
    """Of its layers, where it tells them apart."""
    layers = getattr(config, "layer_types", None)
    return layers is None or (len(layers) == config.num_hidden_layers and _LAYER_TYPES.issuperset(layers))
