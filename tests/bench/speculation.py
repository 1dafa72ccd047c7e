"""What drafts give and cost: answers of the demo model with them and without, in turns, in one run.

Texts to be repeated, where prompt lookup is right, and ordinary questions, where it is not; one answer alone and eight
at once, greedy. `…_tok_s` is decoding alone, `…_ratio` with drafts over without, `…_right` the share of drafted tokens.
`itself` is drafted by the demo model, which is always right and never worth it; `stranger` by a tiny model of random
weights, which never is: between these lies what a real draft model gives.
"""

from __future__ import annotations

import cortex_neuron.engine.preload  # isort: skip  # noqa: F401  (first: it sets what torch reads when it is imported)

import array
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.processes import DEMO_MODEL
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from cortex_neuron.engine.draft_model import DraftLimits, DraftModel
from cortex_neuron.engine.engine import Engine
from cortex_neuron.engine.kv_cache import CacheSize
from cortex_neuron.engine.prompt_lookup import PromptLookup
from cortex_neuron.layers.backend import CPU_BLOCK
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.models.loader import load
from cortex_neuron.protocol.frames import SamplingParams, Speculation, Submit

_Drafting = Callable[[CacheSize], dict[str, Any]]  # what an engine is told of it

_ROUNDS, _ANSWER, _CROWD, _CONTEXT, _STEP_TOKENS = 3, 128, 8, 2048, 256
_DRAFTS = Speculation(num_speculative_tokens=8, prompt_lookup_min=2, prompt_lookup_max=4)
_CODE = """def mean(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)


def variance(values):
    centre = mean(values)
    total = 0
    for value in values:
        total += (value - centre) ** 2
    return total / len(values)
"""
_LIST = "\n".join(
    f"{number}. {name}, {city}, {2000 + 3 * number}"
    for number, (name, city) in enumerate(
        zip(
            ("Anna", "Bertil", "Chen", "Dora", "Emil", "Farah", "Goran", "Hanna"),
            ("Oslo", "Lima", "Turin", "Kyoto", "Accra", "Quito", "Perth", "Bern"),
            strict=True,
        ),
        1,
    )
)
_ASKED = {
    "copied": (
        f"Repeat this code exactly, and nothing else:\n```python\n{_CODE}```",
        f"Repeat this list exactly, and nothing else:\n{_LIST}",
    ),
    "ordinary": (
        "Why is the sky blue?",
        "Write a short story about a fox who learns to swim.",
    ),
}


def measure() -> dict[str, float]:
    """Tokens a second and their ratios: medians of rounds."""
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer_file = _load(str(DEMO_MODEL), folder), Path(folder, "text/tokenizer.json")
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        stranger = _load(str(_stranger(Path(folder, "stranger"), tokenizer_file)), folder)
    figures: dict[str, float] = {}
    for kind, texts in _ASKED.items():
        prompts = [_ids(tokenizer, text) for text in texts]
        for name, batches in ((kind, [[prompt] for prompt in prompts]), (f"{kind}_c{_CROWD}", [_crowd(prompts)])):
            figures |= _named(name, _beside(model, _by_lookup, batches))
    alone = [[_ids(tokenizer, text)] for text in _ASKED["ordinary"]]
    for name, drafter in (("itself", model), ("stranger", stranger)):
        figures |= _named(name, _beside(model, partial(_by_model, drafter), alone))
    return figures


def _load(source: str, folder: str) -> LoadedModel:
    return load(source, "cpu", None, f"{folder}/text", os.cpu_count() or 1, lambda *_: None)


def _stranger(folder: Path, tokenizer_file: Path) -> Path:
    """Two layers of random weights, for the demo model's tokens."""
    config = LlamaConfig(
        vocab_size=49152, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=_CONTEXT, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    shutil.copy(tokenizer_file, folder)
    return folder


def _by_lookup(_: CacheSize) -> dict[str, Any]:
    return {"draft": partial(PromptLookup, _DRAFTS)}


def _by_model(drafter: LoadedModel, size: CacheSize) -> dict[str, Any]:
    limits = DraftLimits(_DRAFTS.num_speculative_tokens, _CROWD, _STEP_TOKENS, drafter.vocab_size)
    return {"draft_model": DraftModel(drafter, size, limits)}


def _named(name: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}_{figure}": value for figure, value in figures.items()}


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    chat = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    ids: list[int] = tokenizer.encode(chat, add_special_tokens=False).ids
    return ids


def _crowd(prompts: Sequence[list[int]]) -> list[list[int]]:
    return [prompts[number % len(prompts)] for number in range(_CROWD)]


def _beside(model: LoadedModel, drafting: _Drafting, batches: Sequence[Sequence[list[int]]]) -> dict[str, float]:
    """All batches, one after the other, with drafts and without in turns."""
    runs = {False: _Runs(model, lambda _: {}), True: _Runs(model, drafting)}
    for _ in range(_ROUNDS):
        for each in runs.values():
            each.round(batches)
    plain, drafted = (statistics.median(each.tok_s) for each in runs.values())
    ratios = [one / other for one, other in zip(runs[True].tok_s, runs[False].tok_s, strict=True)]
    return {
        "plain_tok_s": plain,
        "drafted_tok_s": drafted,
        "ratio": statistics.median(ratios),
        "steps_ratio": runs[True].num_steps / runs[False].num_steps,
        "right": runs[True].right,
        "same": float(runs[True].answers == runs[False].answers),
    }


class _Runs:
    """One engine, and what it did."""

    def __init__(self, model: LoadedModel, drafting: _Drafting) -> None:
        size = CacheSize(CPU_BLOCK, _CROWD * _CONTEXT // CPU_BLOCK, _CONTEXT)
        self._engine = Engine(model, size, _CROWD, _STEP_TOKENS, **drafting(size))
        self.tok_s: list[float] = []
        self.answers: list[list[int]] = []
        self.num_steps = 0
        self.right = 0.0

    def round(self, batches: Sequence[Sequence[list[int]]]) -> None:
        """Every batch once; tokens a second over all of them, prompts left out."""
        self.num_steps, self.answers = 0, []
        spent_s, num_tokens = 0.0, 0
        for prompts in batches:
            seconds, answers = self._answers(prompts)
            spent_s += seconds
            num_tokens += sum(len(answer) - 1 for answer in answers)
            self.answers += answers
        self.tok_s.append(num_tokens / spent_s)

    def _answers(self, prompts: Sequence[list[int]]) -> tuple[float, list[list[int]]]:
        answers: dict[int, list[int]] = {number: [] for number in range(len(prompts))}
        for number, prompt in enumerate(prompts):
            ids = array.array("i", prompt).tobytes()
            greedy = SamplingParams(temperature=0)
            self._engine.submit(Submit(id=number, prompt=ids, max_tokens=_ANSWER, sampling=greedy))
        spent_s = 0.0
        while self._engine.has_work:
            decodes = all(answers.values())
            began = time.perf_counter()
            stepped = self._engine.step()
            if decodes:
                spent_s += time.perf_counter() - began
                self.num_steps += 1
            for output in stepped.outputs:
                answers[output.id] += output.tokens
            self.right = stepped.accepted / max(1, stepped.drafted)
        return spent_s, list(answers.values())
