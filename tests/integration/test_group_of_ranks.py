"""A group of the real ranks, asked through the daemon's own Group: devices that are not there, frames that are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import write_tiny_model

from cortex_neuron.group import fork_server
from cortex_neuron.group.death import GroupFailed
from cortex_neuron.group.group import Group, GroupLimits
from cortex_neuron.protocol import frames

DEADLINE_S = 60.0
DRAFTS = {"num_speculative_tokens": 6, "prompt_lookup_min": 1, "prompt_lookup_max": 3}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module", autouse=True)
def _fork_server() -> Iterator[None]:
    fork_server.start_fork_server("cortex_neuron.engine.preload_modules")
    yield
    fork_server.stop_fork_server()


@asynccontextmanager
async def group_of(world_size: int, folder: Path) -> AsyncIterator[Group]:
    """Ranks that have said hello."""
    limits = GroupLimits(DEADLINE_S, DEADLINE_S, "cortex_neuron.engine.rank")
    group = await Group.start(folder / "g.ipc", limits, world_size)
    try:
        yield group
    finally:
        await group.end(0.5)


def load_frame(source: Path, devices: list[str], folder: Path, **more: Any) -> frames.Load:
    fields: dict[str, Any] = {
        "model_id": "tiny", "source": str(source), "devices": devices, "quant": None, "vram_mb": 400, "context": 512,
        "max_sequences": 4, "max_step_tokens": None, "cpu_threads": 1, "text_dir": str(folder / "text"),
        "init_timeout_s": DEADLINE_S, "load_timeout_s": DEADLINE_S,
    }  # fmt: skip
    return frames.Load(**fields | more)


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
@pytest.mark.parametrize(("devices", "rank"), [(["cuda:0", "cuda:1"], 0), (["cpu", "cuda:0"], 1)])
async def test_a_device_that_cannot_be_opened_is_told_at_once_by_whichever_rank_it_is_of(
    devices: list[str], rank: int, tiny: Path, tmp_path: Path
) -> None:
    """Leader and worker use the same words, and nobody waits for one who will not come (case T3)."""
    began = asyncio.get_running_loop().time()
    async with group_of(2, tmp_path) as group:
        with pytest.raises(GroupFailed) as raised:
            await group.load(load_frame(tiny, devices, tmp_path), DEADLINE_S, lambda _: None)
    death = raised.value.death
    assert (death.kind, death.rank) == ("cuda_feature_not_enabled", rank)
    assert "was built without CUDA" in death.message
    assert asyncio.get_running_loop().time() - began < DEADLINE_S / 2


async def test_a_model_that_needs_more_than_its_ranks_share_is_refused_with_figures(tiny: Path, tmp_path: Path) -> None:
    """Each rank has its part of vram_mb, and says what it would need."""
    async with group_of(2, tmp_path) as group:
        with pytest.raises(GroupFailed, match=r"vram_mb 0 is too little") as raised:
            await group.load(load_frame(tiny, ["cpu"] * 2, tmp_path, vram_mb=0), DEADLINE_S, lambda _: None)
    assert raised.value.death.kind == "load_failed"


async def test_ranks_check_drafts_together(tiny: Path, tmp_path: Path) -> None:
    """The leader alone drafts and draws, also by a draft model; an answer is the same with drafts and without, in fewer
    steps."""
    told, steps, blocks = [], [], []
    by_itself = frames.Speculation(**DRAFTS, source=str(tiny))
    for speculative in (None, frames.Speculation(**DRAFTS), by_itself):
        async with group_of(2, tmp_path) as group:
            frame = load_frame(tiny, ["cpu"] * 2, tmp_path, speculative=speculative, vram_mb=2, context=None)
            blocks.append((await group.load(frame, DEADLINE_S, lambda _: None)).kv_blocks)
            told.append(await _answer(group))
            steps.append(group.figures.steps)
            assert (group.figures.accepted > 0) == (speculative is not None)
    assert told[0] == told[1] == told[2]
    assert len(told[0]) == 120
    assert steps[2] < steps[1] < steps[0]
    assert blocks[2] < blocks[1] == blocks[0]


async def _answer(group: Group) -> list[int]:
    """120 tokens, greedy: a model of random weights comes to repeat itself."""
    prompt = np.arange(3, 40, dtype="<i4").tobytes()
    sampling = frames.SamplingParams(temperature=0)
    submit = frames.Submit(id=0, prompt=prompt, max_tokens=120, sampling=sampling, ignore_eos=True)
    stream = group.submit([submit])
    tokens: list[int] = []
    while True:
        for output in await stream.next(DEADLINE_S):
            tokens += output.tokens
            if output.finish is not None:
                return tokens


async def test_a_group_of_four_ends_when_it_is_asked_to(tiny: Path, tmp_path: Path) -> None:
    """The leader sends its workers home; no signal is needed, and no file is left."""
    async with group_of(4, tmp_path) as group:
        loaded = await group.load(load_frame(tiny, ["cpu"] * 4, tmp_path), DEADLINE_S, lambda _: None)
        assert (loaded.vocab_size, loaded.context) == (128, 512)
        ranks = list(group._ranks)
        await group.end(30.0)
    assert [await rank.exited for rank in ranks] == [0] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
