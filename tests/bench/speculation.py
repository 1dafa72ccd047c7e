"""What drafts by prompt lookup give and cost: answers of the demo model with them and without, in turns, in one run.

Texts to be repeated, where drafts are right, and ordinary questions, where they are not; one answer alone and eight at
once, greedy. `…_tok_s` is decoding alone, `…_ratio` with drafts over without, `…_right` the share of drafted tokens.
"""

from __future__ import annotations

import cortex_neuron.engine.preload  # isort: skip  # noqa: F401  (first: it sets what torch reads when it is imported)

import array
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.bench.processes import DEMO_MODEL
from tokenizers import Tokenizer

from cortex_neuron.engine.engine import Engine
from cortex_neuron.engine.kv_cache import CacheSize
from cortex_neuron.engine.prompt_lookup import PromptLookup
from cortex_neuron.layers.backend import CPU_BLOCK
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.models.loader import load
from cortex_neuron.protocol.frames import SamplingParams, Speculation, Submit

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
        model = load(str(DEMO_MODEL), "cpu", None, folder, os.cpu_count() or 1, lambda *_: None)
        tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    figures: dict[str, float] = {}
    for kind, texts in _ASKED.items():
        prompts = [_ids(tokenizer, text) for text in texts]
        for name, batches in ((kind, [[prompt] for prompt in prompts]), (f"{kind}_c{_CROWD}", [_crowd(prompts)])):
            figures |= {f"{name}_{figure}": value for figure, value in _beside(model, batches).items()}
    return figures


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    chat = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    ids: list[int] = tokenizer.encode(chat, add_special_tokens=False).ids
    return ids


def _crowd(prompts: Sequence[list[int]]) -> list[list[int]]:
    return [prompts[number % len(prompts)] for number in range(_CROWD)]


def _beside(model: LoadedModel, batches: Sequence[Sequence[list[int]]]) -> dict[str, float]:
    """All batches, one after the other, with drafts and without in turns."""
    runs = {drafts: _Runs(model, drafts) for drafts in (False, True)}
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

    def __init__(self, model: LoadedModel, drafts: bool) -> None:
        size = CacheSize(CPU_BLOCK, _CROWD * _CONTEXT // CPU_BLOCK, _CONTEXT)
        draft = partial(PromptLookup, _DRAFTS) if drafts else None
        self._engine = Engine(model, size, _CROWD, _STEP_TOKENS, draft=draft)
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
