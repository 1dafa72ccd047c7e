"""A model by fewer kernels: which modules, that it comes out the same, and that its weights are there once.

By torch's spelling of the operations everywhere; by the kernels where Triton is: on a GPU, or in its interpreter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cortex_neuron.engine import decode_graphs, runner
from cortex_neuron.layers import backend, fusing, joined, ops_trial
from cortex_neuron.layers.backend import Backend, Kernel
from cortex_neuron.layers.fused_norm import fuse_norms
from cortex_neuron.layers.fused_ops import Ops, PlainOps
from cortex_neuron.models.host_copy import HostCopy, storages
from cortex_neuron.models.loaded import LoadedModel

CPU = torch.device("cpu")
SMALL = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SLIDING = {"sliding_window": 11, "layer_types": ["sliding_attention", "full_attention"]}
GEMMA = {**SLIDING, "query_pre_attn_scalar": 12}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
# What of the two layers is fused: attentions, feed-forwards, sums with norms.
FAMILIES: dict[str, tuple[str, dict[str, Any], tuple[int, int, int]]] = {
    "llama": ("llama", {}, (2, 2, 2)),
    "llama, one kv head, biases": (
        "llama",
        {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True},
        (2, 2, 2),
    ),
    "llama that bends otherwise": ("llama", {"hidden_act": "gelu"}, (2, 0, 2)),
    "mistral with a window": ("mistral", {"sliding_window": 11}, (2, 2, 2)),
    "qwen2 with windows": ("qwen2", {"use_sliding_window": True, **SLIDING}, (2, 2, 2)),
    "qwen3": ("qwen3", {}, (2, 2, 2)),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0]}, (2, 2, 2)),
    "phi3 that turns half of a head": ("phi3", {"partial_rotary_factor": 0.5}, (2, 2, 2)),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}, (2, 0, 2)),
    "qwen3_moe with a dense layer": ("qwen3_moe", {**EXPERTS, "mlp_only_layers": [1]}, (2, 1, 2)),
    "gemma": ("gemma", {}, (2, 0, 0)),
    "gemma2": ("gemma2", {**GEMMA, "attn_logit_softcapping": 3.0}, (2, 0, 0)),
    "gemma3_text": ("gemma3_text", GEMMA, (0, 0, 0)),  # it norms heads, and adds 1 to these weights
}
PROMPTS = [[5], [8, 9] * 8, list(range(4, 37))]

pytestmark = pytest.mark.filterwarnings("default")  # Triton's own warnings


@pytest.fixture
def tell(start_with: Any) -> Callable[..., list[list[float]]]:
    """The best log-probabilities of every token: chunked prompts beside sequences that decode."""

    def told(model: LoadedModel, prompts: list[list[int]] = PROMPTS, max_tokens: int = 4) -> list[list[float]]:
        session = start_with(model, blocks=64, sequences=len(prompts), step_tokens=24)
        ids = [session.submit(p, max_tokens=max_tokens, logprobs=5, ignore_eos=True) for p in prompts]
        session.finish()
        return [row.top for i in ids for row in session.answers[i].logprobs]

    return told


def _fuse(model: LoadedModel, ops: Ops) -> str:
    fuse_norms(model.module)
    return fusing.fuse_layers(model.module, fusing.forms_of(model.module), ops, CPU)


def _triton_ops() -> Ops:
    pytest.importorskip("triton", reason="Triton is not installed: CUDA's torch brings it")
    from cortex_neuron.layers.triton_fused import TritonOps

    return TritonOps()


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_plain_is_fused_and_a_model_comes_out_the_same(name: str, torch_model: Any, tell: Any) -> None:
    """Whatever of it is plain; what is not stays with its own class."""
    model_type, more, counts = FAMILIES[name]
    model = torch_model(model_type, {**SMALL, **more})
    before = tell(model)
    words = "fused: {} attentions, {} feed-forwards, {} sums with norms".format(*counts)
    assert _fuse(model, PlainOps()) == words
    assert tell(model) == [pytest.approx(row, abs=1e-4) for row in before]


@pytest.mark.parametrize("name", ["qwen3", "phi3 that turns half of a head"])
def test_a_model_comes_out_the_same_by_our_kernels_in_steps_as_graphs_have_them(
    name: str, torch_model: Any, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoding kernel reads what this one has written."""
    ops = _triton_ops()
    model = torch_model(FAMILIES[name][0], {**SMALL, **FAMILIES[name][1]})
    few = [PROMPTS[0], PROMPTS[1][:6]], 2  # the interpreter is slow
    before = tell(model, *few)
    _fuse(model, ops)
    monkeypatch.setattr(decode_graphs, "record_on", lambda _: lambda step: step() or step)
    monkeypatch.setattr(runner, "backend_for", lambda _: Backend(Kernel.TRITON, Kernel.GATHER, 16, ""))
    monkeypatch.setattr(runner, "graphs_refusal", lambda *_: None)
    assert tell(model, *few) == [pytest.approx(row, abs=1e-4) for row in before]


@torch.inference_mode()
def test_who_runs_the_model_without_our_cache_gets_what_its_class_computes(torch_model: Any) -> None:
    """As transformers' own generation does."""
    model = torch_model("llama", SMALL)
    model.module.set_attn_implementation("eager")
    given = torch.arange(20)[None]
    before = model.module(given).logits
    model.module.set_attn_implementation("neuron")
    _fuse(model, PlainOps())
    model.module.set_attn_implementation("eager")
    torch.testing.assert_close(model.module(given).logits, before, atol=1e-4, rtol=1e-4)


def test_joined_weights_are_there_once_and_sleep_and_wake(torch_model: Any, tell: Any) -> None:
    """The layers' own are views of them, before and after; and a move to where they are leaves them so."""
    model = torch_model("qwen2", SMALL)  # which has biases
    for parameter in model.module.parameters():
        parameter.data = parameter.data.clone()  # as on a device: in memory of its own, and not in a file's pages
    num_bytes, names = model.num_bytes, [name for name, _ in model.module.named_parameters()]
    _fuse(model, PlainOps())
    before = tell(model)
    layer = model.module.to(CPU).model.layers[0]
    for first, *others in (
        [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj],
        [layer.mlp.gate_proj, layer.mlp.up_proj],
    ):
        whole = first.weight.untyped_storage()
        assert [each.weight.untyped_storage().data_ptr() for each in others] == [whole.data_ptr()] * len(others)
        assert whole.nbytes() == sum(each.weight.nbytes for each in (first, *others))
    assert model.num_bytes == num_bytes
    assert [name for name, _ in model.module.named_parameters()] == names
    copy = HostCopy([model.module], CPU)
    assert copy.num_bytes >= num_bytes
    assert storages([model.module], CPU) == []
    copy.restore()
    assert tell(model) == before


def test_layers_that_are_not_plain_are_not_joined() -> None:
    """Another class, something around it, weights that are not just numbers, another type, or not asked for."""
    linear = nn.Linear(4, 3)

    class Scaled(nn.Linear):
        pass

    hooked, wrapped, mixed, bare = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3).half(), nn.Linear(4, 3, bias=False)
    hooked.register_forward_hook(lambda *_: None)
    wrapped.forward = wrapped.forward
    for other in (Scaled(4, 3), hooked, wrapped, mixed, bare):
        assert isinstance(joined.products([linear, other], CPU), joined.Apart), other
    assert isinstance(joined.products([linear, nn.Linear(4, 3)], None), joined.Apart)
    assert isinstance(joined.products([linear, nn.Linear(4, 5)], CPU), joined.Joined)


def test_a_norm_takes_what_was_handed_to_it_for_that_tensor_alone(torch_model: Any) -> None:
    """And once: another one, or the same one later, is normed."""
    norm = torch_model("llama", SMALL).module.model.norm
    own = norm(total := torch.randn(1, 3, 48))
    fuse_norms(norm)
    handed = torch.zeros_like(total)
    norm.forward.hand(total, handed)
    assert norm(total) is handed
    torch.testing.assert_close(norm(total), own)
    norm.forward.hand(total, handed)
    torch.testing.assert_close(norm(total.clone()), own)


@pytest.mark.parametrize(
    ("device", "has_triton", "capability", "words"),
    [
        ("meta", True, (9, 0), "they are for CUDA"),
        ("cuda", False, (9, 0), "triton is not installed"),
        ("cuda", True, (7, 0), "they need compute capability 7.5"),
    ],
)
def test_where_kernels_cannot_be_used_only_norms_are_fused_and_it_is_said(
    device: str, has_triton: bool, capability: tuple[int, int], words: str, torch_model: Any, monkeypatch: Any
) -> None:
    """As before there were any."""
    model = torch_model("llama", SMALL)
    monkeypatch.setattr(backend, "has_triton", lambda: has_triton)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert fusing.words(model.module) == ""
    fusing.fuse(model.module, torch.device(device))
    assert fusing.words(model.module) == f"; no fused layers: {words}"
    changed = [name for name, each in model.module.named_modules() if "forward" in vars(each)]
    assert len(changed) == 5
    assert all("norm" in name for name in changed)


@pytest.mark.parametrize("fault", [None, "they failed a trial: turn is 3 off"])
def test_kernels_that_pass_their_trial_are_used_and_others_are_not(
    fault: str | None, torch_model: Any, monkeypatch: Any
) -> None:
    """They are tried at the sizes of the model."""
    _triton_ops()
    model = torch_model("qwen3", SMALL)
    tried: list[ops_trial.Sizes] = []
    monkeypatch.setattr(fusing, "_REFUSALS", ())
    monkeypatch.setattr(ops_trial, "fault", lambda _, sizes, __: (tried.append(sizes), fault)[1])
    fusing.fuse(model.module, CPU)
    assert tried == [ops_trial.Sizes(6, 2, 8, 8, True, 48, torch.float32)]
    said = f"no fused layers: {fault}" if fault else "fused: 2 attentions, 2 feed-forwards, 2 sums with norms"
    assert fusing.words(model.module) == f"; {said}"
    assert ("forward" in vars(model.module.model.layers[0])) is (fault is None)
