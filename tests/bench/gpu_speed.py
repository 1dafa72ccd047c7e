"""What the engine does on a GPU: Llama 3 8B's shapes with random weights, and transformers' continuous batching beside.

Weights need no file and no download: what a step costs depends on none of their values. `share_of_limit` is of the
tokens a second at which the weights could be read from memory, which is measured first, by copying.
"""

from __future__ import annotations

import cortex_neuron.engine.preload_modules  # isort: skip  # noqa: F401  (first: it sets what torch reads when it is imported)

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from cortex_neuron.engine import runner
from cortex_neuron.engine.engine import Engine
from cortex_neuron.engine.kv_cache import CacheSize
from cortex_neuron.layers import attention
from cortex_neuron.layers.batch import Batch
from cortex_neuron.models import module_loader
from cortex_neuron.models.loaded import CacheShape, LoadedModel
from cortex_neuron.protocol.frames import SamplingParams, Submit

LLAMA_3_8B: dict[str, Any] = {
    "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 8192,
}  # fmt: skip
_PROMPT, _ANSWER, _CONTEXT, _CROWD, _STEP_TOKENS = 128, 128, 512, 256, 2048
_COPIED = 1 << 30


def measure(device_name: str = "cuda:0", sizes: dict[str, Any] = LLAMA_3_8B, crowd: int = _CROWD) -> dict[str, float]:
    """Tokens a second of one sequence and of a crowd, with graphs and without, and milliseconds a step."""
    device = torch.device(device_name)
    figures: dict[str, float] = {"memory_gb_s": _bandwidth(device) / 1e9}
    model = _model(device, sizes)
    limit = figures["memory_gb_s"] * 1e9 / model.num_bytes
    for name, refusal in (("", None), ("_no_graphs", "for the figures")):
        with _graphs(refusal):
            began = time.perf_counter()
            engine = _engine(model, crowd)
            _synchronise(device)
            figures[f"engine{name}_s"] = time.perf_counter() - began  # of which the graphs are nearly all
            print(f"  {engine.attends}", flush=True)
            _one(engine, f"one{name}", limit, figures)
            figures[f"crowd{name}_tok_s"] = _crowd(engine, crowd)
        del engine
        if device.type == "cuda":
            torch.cuda.empty_cache()
    figures["transformers_crowd_tok_s"] = _transformers(model.module, crowd)
    return figures


def _bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written."""
    size = _COPIED if device.type == "cuda" else _COPIED >> 5
    given, taken = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        _synchronise(device)
        began = time.perf_counter()
        taken.copy_(given)
        _synchronise(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size / best


def _model(device: torch.device, sizes: dict[str, Any]) -> LoadedModel:
    attention.register()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with device:
        config = AutoConfig.for_model("llama", **sizes, pad_token_id=0, eos_token_id=1)
        module = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention.NAME).eval()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    module = module_loader.placed(module, device)
    shape = CacheShape(config.num_hidden_layers, config.num_key_value_heads, config.head_dim, dtype)
    return LoadedModel(module, device, shape, config.max_position_embeddings, config.vocab_size, (1,))


@contextmanager
def _graphs(refusal: str | None) -> Iterator[None]:
    """Engines that are made meanwhile have none, if there is a refusal."""
    known = runner.graphs_refusal
    if refusal is not None:
        runner.graphs_refusal = lambda *_: refusal
    try:
        yield
    finally:
        runner.graphs_refusal = known


def _engine(model: LoadedModel, crowd: int) -> Engine:
    block_size = runner.backend_for(model).block_size
    blocks = crowd * -(-(_PROMPT + _ANSWER) // block_size) + _CONTEXT // block_size
    return Engine(model, CacheSize(block_size, blocks, _CONTEXT), crowd, _STEP_TOKENS)


class _Timed:
    """The runner, with an event before and after each step."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.events: list[tuple[Any, Any]] = []

    def run(self, batch: Batch, drawn: Tensor | None = None) -> Tensor:
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        logits: Tensor = self._inner.run(batch, drawn)
        after.record()
        self.events.append((before, after))
        return logits


def _one(engine: Engine, name: str, limit: float, figures: dict[str, float]) -> None:
    """A sequence alone: what a step takes, and how long of it the device has nothing of the model's to do. That is the
    draw's kernels and whatever the host keeps it waiting for, so more than the host's gap."""
    _submit(engine, 1)
    _until_all_decode(engine)
    inner, timed = engine._runner, _Timed(engine._runner)
    if engine.model.device.type == "cuda":
        engine._runner = timed
    took = []
    while engine.has_work:
        began = time.perf_counter()
        engine.step()
        took.append((time.perf_counter() - began) * 1000)
    engine._runner = inner
    step_ms = statistics.median(took)
    figures[f"{name}_step_ms"] = step_ms
    figures[f"{name}_tok_s"] = 1000 / step_ms
    figures[f"{name}_share_of_limit"] = 1000 / step_ms / limit
    if timed.events:
        torch.cuda.synchronize()
        gaps = [after.elapsed_time(before) for (_, after), (before, _) in pairwise(timed.events)]
        figures[f"{name}_gap_ms"] = statistics.median(gaps)
        figures[f"{name}_worst_gap_share"] = max(gaps) / step_ms


def _crowd(engine: Engine, crowd: int) -> float:
    """Tokens a second of all, from the first prompt's first chunk to the last token."""
    _submit(engine, crowd)
    began, tokens = time.perf_counter(), 0
    while engine.has_work:
        tokens += sum(len(output.tokens) for output in engine.step().outputs)
    return tokens / (time.perf_counter() - began)


def _submit(engine: Engine, number: int) -> None:
    greedy = SamplingParams(temperature=0)
    for sequence, prompt in enumerate(_prompts(number, engine.model.vocab_size)):
        engine.submit(
            Submit(id=sequence, prompt=prompt.tobytes(), max_tokens=_ANSWER, sampling=greedy, ignore_eos=True)
        )


def _prompts(number: int, vocab_size: int) -> list[Any]:
    rng = np.random.default_rng(number)
    return list(rng.integers(2, vocab_size, (number, _PROMPT), np.int32))


def _until_all_decode(engine: Engine) -> None:
    while any(not len(each.output) for each in engine._by_id.values()):
        engine.step()
    for _ in range(4):
        engine.step()


def _transformers(module: Any, crowd: int) -> float:
    """The same crowd by transformers itself; 0 where it does not run, and then why is printed."""
    given = [prompt.tolist() for prompt in _prompts(crowd, module.config.vocab_size)]
    settings = GenerationConfig(max_new_tokens=_ANSWER, do_sample=False, eos_token_id=-1, pad_token_id=0)
    try:
        module.set_attn_implementation("sdpa")
        best = 0.0
        for _ in range(2):  # the first makes what both need
            began = time.perf_counter()
            found = module.generate_batch(inputs=given, generation_config=settings, progress_bar=False)
            tokens = sum(len(each.generated_tokens) for each in found.values())
            best = max(best, tokens / (time.perf_counter() - began))
    except Exception as error:
        print(f"  transformers' continuous batching: {type(error).__name__}: {error}", flush=True)
        return 0.0
    return best


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
