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
    can_be_plain: ClassVar[bool] = True
    default_theta: ClassVar[Any] = 10000.0
    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    rope_parameters: dict[str, Any] | None = None
    bos_token_id: int | None = None
    eos_token_id: TokenIds = None
    pad_token_id: int | None = None

    def complete(self, **more: Any) -> None:
        """What follows from the others, where it was not said. `more` is what was said besides the fields."""
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads


@dataclass(eq=False, repr=False, kw_only=True)
class _Silu(NativeConfig):
    """Those that are no Gemma, which names its activation otherwise."""

    hidden_act: str = "silu"


@dataclass(eq=False, repr=False, kw_only=True)
class _Llama(_Silu):
    model_type = "llama"
    bos_token_id: int | None = 1
    eos_token_id: TokenIds = 2


@dataclass(eq=False, repr=False, kw_only=True)
class _Mistral(_Silu):
    model_type = "mistral"
    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 4096 * 32
    sliding_window: int | None = 4096
    bos_token_id: int | None = 1
    eos_token_id: TokenIds = 2


@dataclass(eq=False, repr=False, kw_only=True)
class _Qwen2(_Silu):
    model_type = "qwen2"
    vocab_size: int = 151936
    intermediate_size: int = 22016
    num_key_value_heads: int | None = 32
    max_position_embeddings: int = 32768
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = 28
    layer_types: list[str] | None = None

    def complete(self, **more: Any) -> None:
        self.sliding_window = self.sliding_window if self.use_sliding_window else None
        if self.layer_types is None:
            slides = [
                self.sliding_window is not None and i >= self.max_window_layers for i in range(self.num_hidden_layers)
            ]
            self.layer_types = ["sliding_attention" if each else "full_attention" for each in slides]
        super().complete(**more)


@dataclass(eq=False, repr=False, kw_only=True)
class _Qwen3(_Qwen2):
    model_type = "qwen3"
    head_dim: int | None = 128


@dataclass(eq=False, repr=False, kw_only=True)
class _SmolLM3(_Silu):
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

    def complete(self, **more: Any) -> None:
        if self.no_rope_layers is None:
            layers = range(1, self.num_hidden_layers + 1)
            self.no_rope_layers = [int(layer % self.no_rope_layer_interval != 0) for layer in layers]
        if self.layer_types is None:
            may_slide = self.use_sliding_window and self.sliding_window is not None
            slides = [may_slide and not rotated for rotated in self.no_rope_layers]
            self.layer_types = ["sliding_attention" if each else "full_attention" for each in slides]
        super().complete(**more)


@dataclass(eq=False, repr=False, kw_only=True)
class _Qwen3Moe(_Silu):
    model_type = "qwen3_moe"
    can_be_plain = False
    attribute_map: ClassVar[dict[str, str]] = {"num_experts": "num_local_experts"}
    vocab_size: int = 151936
    hidden_size: int = 2048
    intermediate_size: int = 6144
    num_hidden_layers: int = 24
    num_key_value_heads: int | None = 4
    max_position_embeddings: int = 32768
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    decoder_sparse_step: int = 1
    moe_intermediate_size: int = 768
    num_experts_per_tok: int = 8
    num_experts: int = 128
    norm_topk_prob: bool = False
    mlp_only_layers: list[int] | None = None

    def complete(self, **more: Any) -> None:
        self.sliding_window = self.sliding_window if self.use_sliding_window else None
        self.mlp_only_layers = self.mlp_only_layers or []
        super().complete(**more)


@dataclass(eq=False, repr=False, kw_only=True)
class _Mixtral(_Silu):
    model_type = "mixtral"
    can_be_plain = False
    attribute_map: ClassVar[dict[str, str]] = {"num_experts": "num_local_experts"}
    default_theta = 1000000.0
    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 4096 * 32
    rms_norm_eps: float = 1e-5
    sliding_window: int | None = None
    num_experts_per_tok: int = 2
    num_local_experts: int = 8
    bos_token_id: int | None = 1
    eos_token_id: TokenIds = 2


@dataclass(eq=False, repr=False, kw_only=True)
class _Gemma2(NativeConfig):
    model_type = "gemma2"
    can_be_plain = False
    vocab_size: int = 256000
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int | None = 4
    head_dim: int | None = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True
    query_pre_attn_scalar: int = 256
    sliding_window: int | None = 4096
    layer_types: list[str] | None = None
    final_logit_softcapping: float | None = 30.0
    attn_logit_softcapping: float | None = 50.0
    use_bidirectional_attention: bool | None = None
    pad_token_id: int | None = 0
    eos_token_id: TokenIds = 1
    bos_token_id: int | None = 2

    def complete(self, **more: Any) -> None:
        if self.layer_types is None:
            self.layer_types = self._alternating(2)
        super().complete(**more)

    def _alternating(self, period: int) -> list[str]:
        """All slide but each `period`-th."""
        layers = range(1, self.num_hidden_layers + 1)
        return ["sliding_attention" if layer % period else "full_attention" for layer in layers]


@dataclass(eq=False, repr=False, kw_only=True)
class _Gemma3(_Gemma2):
    model_type = "gemma3_text"
    default_theta: ClassVar[Any] = {"global": 1000000.0, "local": 10000.0}  # of layers that see all, and that slide
    vocab_size: int = 262208
    max_position_embeddings: int = 131072
    final_logit_softcapping: float | None = None
    attn_logit_softcapping: float | None = None
    use_bidirectional_attention: bool | None = False

    def complete(self, **more: Any) -> None:
        if self.use_bidirectional_attention and self.sliding_window is not None:
            self.sliding_window = self.sliding_window // 2 + 1
        if self.layer_types is None:
            self.layer_types = self._alternating(more.get("sliding_window_pattern", 6))
        super().complete(**more)


_ALL = (_Llama, _Mistral, _Qwen2, _Qwen3, _SmolLM3, _Qwen3Moe, _Mixtral, _Gemma2, _Gemma3)
CLASSES: dict[str, type[NativeConfig]] = {each.model_type: each for each in _ALL}


def plain(values: dict[str, Any]) -> NativeConfig | None:
    """What a config.json says, where it is of a kind that kernels compute and says nothing unusual."""
    kind = CLASSES.get(values.get("model_type", ""))
    if kind is None or not kind.can_be_plain or any(values.get(key) is not None for key in _NOT_PLAIN):
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
