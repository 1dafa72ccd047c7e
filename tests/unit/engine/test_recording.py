"""Graphs of several ranks, which all have or none. What records just keeps the step, and runs it again."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paged_reference
import pytest
import torch
from thread_ranks import BLOCK, Ranks, Texts

from cortex_neuron.engine import decode_graphs, recording, runner
from cortex_neuron.engine.communicator import Communicator
from cortex_neuron.layers import page_kernels
from cortex_neuron.layers.backend import Backend, Kernel
from cortex_neuron.models.loaded import LoadedModel

SMALL = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 8, "max_position_embeddings": 512, "eos_token_id": 2,
}  # fmt: skip
PROMPTS = [[5], [7, 9, 11], [8, 9] * 8, list(range(4, 70))]
ANSWER = [5, 5, 30, 71, 5]
STEP = 1 + 2 * SMALL["num_hidden_layers"] + 1  # collectives: the embedding's, two a layer, the head's

Step = Callable[[], None]


class StandIns:
    """Graphs for the ranks of this process. `failing`: which rank fails, at which size, after the step was tried."""

    def __init__(self, failing: tuple[int, int] | None = None) -> None:
        self.num_replayed = 0
        self._failing = failing
        self._here = threading.local()  # each rank is a thread

    def enter(self, rank: int, communicator: Communicator) -> None:
        """This thread is that rank from now on."""
        self._here.rank, self._here.communicator, self._here.recorded = rank, communicator, []

    def record_on(self, _: torch.device) -> Callable[[Step], Step]:
        """As decode_graphs.record_on: the step is tried, then recorded."""
        return self._record

    def _record(self, step: Step) -> Step:
        step()
        self._here.recorded.append(step)
        if self._failing == (self._here.rank, len(self._here.recorded)):
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
        return lambda: self._replay(step)

    def _replay(self, step: Step) -> None:
        entered = self._here.communicator.num_entered
        step()
        self._here.communicator.num_entered = entered  # a replay runs no Python
        self.num_replayed += 1


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Callable[..., StandIns]:
    """`stand_ins(…)` has every model recorded by such from now on; what is told of a refusal may be another rank's."""
    monkeypatch.setattr(page_kernels, "attend", _decoding_only)
    monkeypatch.setattr(runner, "backend_for", lambda _: Backend(Kernel.TRITON, Kernel.GATHER, BLOCK, ""))
    monkeypatch.setattr(runner, "graphs_refusal", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)

    def made(failing: tuple[int, int] | None = None) -> StandIns:
        found = StandIns(failing)
        monkeypatch.setattr(decode_graphs, "record_on", found.record_on)
        return found

    return made


def _decoding_only(q: Any, keys: Any, values: Any, pages: Any, scale: float, window: Any, softcap: Any) -> Any:
    """As Triton's kernel takes them: tables and lengths, nothing else."""
    return paged_reference.attend(
        q, keys, values, pages.tables, pages.lengths, pages.block_size, scale=scale, window=window, softcap=softcap
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_folder: Callable[..., Any]) -> Path:
    """One with a small model."""
    path = tmp_path_factory.mktemp("recorded")
    make_folder(path / "model", "llama", SMALL)
    return path


@pytest.fixture
def ranks() -> Ranks:
    """Two."""
    return Ranks(2)


@pytest.fixture
def models(ranks: Ranks, folder: Path) -> list[LoadedModel]:
    """Their shares."""
    return ranks.load(folder / "model", folder / "text")


Told = tuple[torch.Tensor, list[int], str]


def _answers(
    ranks: Ranks, models: list[LoadedModel], stand_ins: StandIns, most_decoding: int | None = len(PROMPTS)
) -> list[Told]:
    """Of each rank: logits after each prompt and each of an answer, collectives of each step, and what attends."""

    def answered(rank: int, communicator: Communicator) -> Told:
        stand_ins.enter(rank, communicator)
        batch = Texts(models[rank], PROMPTS, most_decoding)
        rows, entered, given = [], [], [0] * len(PROMPTS)
        while min(given) <= len(ANSWER):
            before = communicator.num_entered
            ready, logits = batch.step()
            entered.append(communicator.num_entered - before)
            rows.append(logits.clone())
            for i in ready:
                batch.texts[i] += ANSWER[given[i] : given[i] + 1]
                given[i] += 1
        return torch.cat(rows), entered, batch.runner.attends

    return ranks.run(answered)


def _assert_alike(found: list[Told], expected: list[Told]) -> None:
    for (logits, entered, _), (others, too, _) in zip(found, expected, strict=True):
        assert torch.allclose(logits, others, atol=1e-4)
        assert entered == too == [STEP] * len(too)


def test_ranks_with_graphs_give_the_answers_of_ranks_without_and_count_as_they_do(ranks, models, stand_ins) -> None:
    """Both replay the same steps; a step that fails is judged by how many collectives each had begun (case T5)."""
    recorded = stand_ins()
    found = _answers(ranks, models, recorded)
    assert [attends.endswith("; decode steps are graphs") for *_, attends in found] == [True, True]
    assert recorded.num_replayed == 2 * len(ANSWER)
    _assert_alike(found, _answers(ranks, models, stand_ins(), None))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("size", [1, 2])
def test_where_one_rank_fails_to_record_none_has_graphs(rank: int, size: int, ranks, models, stand_ins) -> None:
    """At any size: what others have recorded by then is dropped. Each says what it knows; answers are the same."""
    recorded = stand_ins((rank, size))
    found = _answers(ranks, models, recorded)
    assert recorded.num_replayed == 0
    own = "no graphs: recording failed: RuntimeError: operation not permitted when stream is capturing"
    assert found[rank][2].endswith(own)
    assert found[1 - rank][2].endswith("no graphs: another rank has none")
    _assert_alike(found, _answers(ranks, models, stand_ins(), None))


def test_where_one_rank_may_have_none_no_rank_records(ranks, models, stand_ins, monkeypatch) -> None:
    """A kernel that fails its trial on one GPU is not used there, and graphs are not without it."""
    recorded = stand_ins()
    monkeypatch.setattr(runner, "graphs_refusal", lambda model, *_: "not here" if model is models[1] else None)
    found = _answers(ranks, models, recorded)
    assert [attends.rpartition("no graphs: ")[2] for *_, attends in found] == ["another rank has none", "not here"]
    assert recorded.num_replayed == 0


def test_a_rank_without_memory_to_record_does_not_go_on(ranks, models, stand_ins) -> None:
    """The others may wait for it in the step that is tried; what it says of itself ends the group at once."""

    def fails(_: Step) -> Step:
        raise torch.OutOfMemoryError("CUDA out of memory")

    recorded = stand_ins()
    recorded._record = fails  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        _answers(ranks, models, recorded)


def test_graphs_go_with_the_last_reference_to_their_runner(models, ranks, stand_ins) -> None:
    """Not when a collection comes by: what they hold of a communicator is to be gone before that is aborted."""
    recorded = stand_ins()
    # As CUDA's, it keeps nothing of the step.
    recorded._record = lambda step: (step(), lambda: None)[1]  # type: ignore[method-assign]

    def gone(rank: int, communicator: Communicator) -> bool:
        recorded.enter(rank, communicator)
        texts = Texts(models[rank], PROMPTS, len(PROMPTS))
        graphs = weakref.ref(texts.runner._graphs)
        assert graphs() is not None
        del texts
        return graphs() is None

    assert ranks.run(gone) == [True, True]


def test_alone_a_refusal_stands_and_nobody_is_asked() -> None:
    """One rank has no communicator."""
    assert recording.agreed(None, None) is None
    assert recording.agreed("not now", None) == "not now"
