"""The configs of the models that native kernels compute, as transformers' classes of the same names have them.

Owns: the fields that are read here, and their defaults, both of transformers' `configuration_*.py`; a test holds them
to be the same. Does not own: reading rope parameters, which transformers' base class does. Called by: models.loader.

Importing transformers' own class brings in torch's compiler, 1.3 s of each load, in a rank that has no other use for
it. Annotations are values here, not text: `strict` checks what a config.json says by them.
"""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

TokenIds = int | list[int] | None


@strict
class NativeConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers has no types here
    """What all of them have."""

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

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)


@strict
class _Silu(NativeConfig):
    """Those that are no Gemma, which names its activation otherwise."""

    hidden_act: str = "silu"


@strict
class _Llama(_Silu):
    model_type = "llama"
    bos_token_id: int | None = 1
    eos_token_id: TokenIds = 2


@strict
class _Mistral(_Silu):
    model_type = "mistral"
    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 4096 * 32
    sliding_window: int | None = 4096
    bos_token_id: int | None = 1
    eos_token_id: TokenIds = 2


@strict
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

    def __post_init__(self, **kwargs: Any) -> None:
        self.sliding_window = self.sliding_window if self.use_sliding_window else None
        if self.layer_types is None:
            slides = [
                self.sliding_window is not None and i >= self.max_window_layers for i in range(self.num_hidden_layers)
            ]
            self.layer_types = ["sliding_attention" if each else "full_attention" for each in slides]
        super().__post_init__(**kwargs)


@strict
class _Qwen3(_Qwen2):
    model_type = "qwen3"
    head_dim: int | None = 128


@strict
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

    def __post_init__(self, **kwargs: Any) -> None:
        if self.no_rope_layers is None:
            layers = range(1, self.num_hidden_layers + 1)
            self.no_rope_layers = [int(layer % self.no_rope_layer_interval != 0) for layer in layers]
        if self.layer_types is None:
            may_slide = self.use_sliding_window and self.sliding_window is not None
            slides = [may_slide and not rotated for rotated in self.no_rope_layers]
            self.layer_types = ["sliding_attention" if each else "full_attention" for each in slides]
        super().__post_init__(**kwargs)


@strict
class _Qwen3Moe(_Silu):
    model_type = "qwen3_moe"
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

    def __post_init__(self, **kwargs: Any) -> None:
        self.sliding_window = self.sliding_window if self.use_sliding_window else None
        self.mlp_only_layers = self.mlp_only_layers or []
        super().__post_init__(**kwargs)


@strict
class _Mixtral(_Silu):
    model_type = "mixtral"
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


@strict
class _Gemma2(NativeConfig):
    model_type = "gemma2"
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

    def __post_init__(self, **kwargs: Any) -> None:
        if self.layer_types is None:
            self.layer_types = self._alternating(2)
        super().__post_init__(**kwargs)

    def _alternating(self, period: int) -> list[str]:
        """All slide but each `period`-th."""
        layers = range(1, self.num_hidden_layers + 1)
        return ["sliding_attention" if layer % period else "full_attention" for layer in layers]


@strict
class _Gemma3(_Gemma2):
    model_type = "gemma3_text"
    default_theta: ClassVar[dict[str, float]] = {"global": 1000000.0, "local": 10000.0}
    vocab_size: int = 262208
    max_position_embeddings: int = 131072
    final_logit_softcapping: float | None = None
    attn_logit_softcapping: float | None = None
    use_bidirectional_attention: bool | None = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.use_bidirectional_attention and self.sliding_window is not None:
            self.sliding_window = self.sliding_window // 2 + 1
        if self.layer_types is None:
            self.layer_types = self._alternating(kwargs.get("sliding_window_pattern", 6))
        super().__post_init__(**kwargs)

    def convert_rope_params_to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Layers that slide turn otherwise than the others, and only the others' rotation is scaled."""
        each = {} if self.rope_parameters is None else self.rope_parameters
        for kind in ("full_attention", "sliding_attention"):
            if each.get(kind) is None:
                each[kind] = {"rope_type": "default"}
        each["full_attention"].update(kwargs.pop("rope_scaling", None) or {})
        thetas = {
            "full_attention": kwargs.pop("rope_theta", self.default_theta["global"]),
            "sliding_attention": kwargs.pop("rope_local_base_freq", self.default_theta["local"]),
        }
        for kind, theta in thetas.items():
            each[kind].setdefault("rope_theta", theta)
        self.rope_parameters = each
        self.standardize_rope_params()
        return kwargs


_ALL = (_Llama, _Mistral, _Qwen2, _Qwen3, _SmolLM3, _Qwen3Moe, _Mixtral, _Gemma2, _Gemma3)
CLASSES = {each.model_type: each for each in _ALL}
