"""Whatever comes, goes and is thrown out in whatever order: each answer is the one its prompt gets alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cortex_neuron.engine.engine import Engine
from cortex_neuron.engine.prompt_lookup import PromptLookup
from cortex_neuron.layers import attention
from cortex_neuron.models.loaded import CacheShape, LoadedModel
from cortex_neuron.protocol.frames import SamplingParams, Speculation, Stepped

VOCAB, BLOCKS, LAST_ARRIVAL = 64, 9, 12
CONFIG = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "sliding_window": 40,
}
EOS = 7
LOOKUP = Speculation(num_speculative_tokens=6, prompt_lookup_min=1, prompt_lookup_max=3)


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    """A model of random weights in double precision: the batch's shape does not change which token is best."""
    return _tiny(3)


@pytest.fixture(scope="module")
def stranger() -> LoadedModel:
    """Another, which knows nothing of the first."""
    return _tiny(4)


def _tiny(seed: int) -> LoadedModel:
    attention.register()
    torch.manual_seed(seed)
    config = AutoConfig.for_model("mistral", **CONFIG)
    module = AutoModelForCausalLM.from_config(config, dtype=torch.float64, attn_implementation=attention.NAME)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    shape = CacheShape(layers=2, kv_heads=2, head_dim=8, dtype=torch.float64)
    return LoadedModel(module.eval(), torch.device("cpu"), shape, 512, VOCAB, (EOS,))


class Ask:
    """One request of a schedule: when it comes, when it is cancelled, if it is."""

    def __init__(self, chance: random.Random) -> None:
        start = chance.randrange(VOCAB)
        repeats = chance.random() < 0.4  # near-identical keys are the hard case
        size = chance.choice([1, 2, 15, 16, 17, 33, chance.randrange(1, 90)])
        self.prompt = [start if repeats else chance.randrange(VOCAB) for _ in range(size)]
        self.max_tokens = chance.choice([1, 2, 16, chance.randrange(1, 50)])
        self.sampling = SamplingParams(temperature=chance.choice([0.0, 0.9]), top_p=0.9, seed=chance.randrange(1000))
        self.at_step = chance.randrange(LAST_ARRIVAL)
        self.cancelled_at = self.at_step + chance.randrange(30) if chance.random() < 0.25 else None


@pytest.fixture(scope="module")
def alone(tiny: LoadedModel, start_with) -> Callable[[Ask], Any]:
    """What a request gets with nobody beside it; each is asked once for all tests."""
    session = start_with(tiny, blocks=BLOCKS, sequences=1, step_tokens=512)
    known: dict[tuple[Any, ...], Any] = {}

    def answer(ask: Ask) -> Any:
        key = (*ask.prompt, ask.max_tokens, ask.sampling.temperature, ask.sampling.seed)
        if key not in known:
            known[key] = session.ask(ask.prompt, ask.sampling, ask.max_tokens)
        return known[key]

    return answer


@pytest.mark.parametrize("drafts", ["none", "none, overlapping", "lookup", "itself", "stranger"])
def test_any_schedule_gives_each_prompt_its_own_answer(request, tiny, start_with, alone, monkeypatch, drafts) -> None:
    """Mixed chunks, preemption, cancellation, two or eight at once: the same ids, greedy or seeded; no block lost.
    Steps that overlap change nothing of it, nor drafts, whether by prompt lookup or by a draft model, good or bad."""
    preempted: list[int] = []
    real = Engine._preempt
    monkeypatch.setattr(Engine, "_preempt", lambda self, s: (preempted.append(s.id), real(self, s)))
    drafter = {"itself": "tiny", "stranger": "stranger"}.get(drafts)
    sources = {
        "draft": partial(PromptLookup, LOOKUP) if drafts == "lookup" else None,
        "drafter": request.getfixturevalue(drafter) if drafter else None,
        "overlaps": drafts == "none, overlapping",
    }
    start = partial(start_with, tiny, blocks=BLOCKS, **sources)
    steps = [_run_one(random.Random(seed), start, alone) for seed in range(12)]
    drafted, accepted = sum(each.drafted for each in steps), sum(each.accepted for each in steps)
    assert len(preempted) > 10, "the cache was not small enough to test anything"
    assert (drafted > 0) == (not drafts.startswith("none"))
    assert drafts not in ("lookup", "itself") or accepted > 200, "no draft was tested"
    assert drafts != "stranger" or accepted < drafted / 4


def _run_one(chance: random.Random, start, alone) -> Stepped:
    asks = [Ask(chance) for _ in range(24)]
    sequences, step_tokens = chance.choice([(2, 5), (4, 16), (8, 9), (8, 64)])
    session = start(sequences=sequences, step_tokens=step_tokens)
    ids: dict[int, Ask] = {}
    step = 0
    while step < LAST_ARRIVAL or session.engine.has_work:
        ids |= {session.submit(a.prompt, a.sampling, a.max_tokens): a for a in asks if a.at_step == step}
        session.engine.cancel([number for number, ask in ids.items() if ask.cancelled_at == step])
        session.step()
        step += 1
        assert step < 3000, "the engine makes no progress"
    assert session.steps[-1].kv_blocks_free == BLOCKS
    for number, ask in ids.items():
        got, expected = session.answers[number], alone(ask)
        if ask.cancelled_at is None:
            assert (got.tokens, got.finish) == (expected.tokens, expected.finish)
        assert got.tokens == expected.tokens[: len(got.tokens)]
    return session.steps[-1]
