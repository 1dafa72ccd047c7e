"""NCCL: the communicator on one GPU, alone and in a captured graph; a model over two where there are two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from neuron_process import REAL, running_neuron
from tiny_model import write_tiny_model
from torch import nn

from cortex_neuron.engine import decode_graphs, recording
from cortex_neuron.engine.communicator import ID_BYTES, Communicator, Rendezvous, join
from cortex_neuron.layers.parallel import RowParallelLinear
from cortex_neuron.protocol.failures import CudaDeviceNotFound, NcclInitFailed

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEADLINE_S = 60.0
GREEDY = {"prompt": [5, 6, 7, 8] * 4, "max_tokens": 16, "temperature": 0, "ignore_eos": True, "return_token_ids": True}


def alone() -> Communicator:
    """A group of one on the first GPU."""
    rendezvous = Rendezvous(DEADLINE_S)
    return join(str(rendezvous.id), 0, 1, "cuda:0", DEADLINE_S, rendezvous.store)


def test_a_group_of_one_joins_adds_up_gathers_and_is_aborted() -> None:
    """And another one works after it."""
    for _ in range(2):
        ranks = alone()
        assert ranks.observed_sum() == 1
        assert ranks.smallest(1 << 40) == 1 << 40
        assert ranks.free_before > 0
        gathered = ranks.gather(torch.full((2, 3), 7.0, device="cuda:0"))
        assert gathered is not None
        assert gathered.tolist() == [[7.0] * 3] * 2
        ranks.abort()


@pytest.mark.parametrize("comm_id", ["abc", "zz" * ID_BYTES, "ff" * 127, "ff" * ID_BYTES])
def test_what_is_no_id_is_refused_before_nccl_is_touched(comm_id: str) -> None:
    """With CUDA the id is what is looked at next."""
    with pytest.raises(NcclInitFailed, match="comm_id"):
        join(comm_id, 0, 1, "cuda:0", DEADLINE_S)


def test_a_gpu_that_is_not_there_is_found_before_the_id_is_read() -> None:
    """The order of docs/protocol.md."""
    with pytest.raises(CudaDeviceNotFound):
        join("zz", 0, 1, "cuda:63", DEADLINE_S)


def test_a_sum_over_ranks_can_be_captured_in_a_graph() -> None:
    """A row-parallel layer, replayed on new input."""
    ranks = alone()
    layer = RowParallelLinear(nn.Linear(64, 32, device="cuda:0"), ranks)
    given = torch.randn(4, 64, device="cuda:0")
    with torch.inference_mode():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            layer(given)  # NCCL makes its communicator at the first collective
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = layer(given)
        given.copy_(torch.randn(4, 64, device="cuda:0"))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.allclose(found, layer(given), atol=1e-5)
    ranks.abort()


def test_a_recorded_step_counts_its_collectives_and_goes_before_its_group() -> None:
    """As decode steps are recorded, by the same code; a group that is aborted waits for the graphs it is in."""
    ranks, device = alone(), torch.device("cuda:0")
    layer = RowParallelLinear(nn.Linear(64, 32, device=device), ranks)
    given, found = torch.randn(4, 64, device=device), torch.zeros(4, 32, device=device)

    def step() -> None:
        for _ in range(3):
            found.copy_(layer(given))
        gathered = ranks.gather(found)
        assert gathered is not None
        found.copy_(gathered)

    with torch.inference_mode():
        replay: Callable[[], None] | None = recording.counting(decode_graphs.record_on(device), ranks)(step)
        assert replay is not None
        assert ranks.num_entered == 2 * 4  # tried, then recorded
        given.copy_(torch.randn(4, 64, device=device))
        replay()
        assert ranks.num_entered == 3 * 4
        torch.cuda.synchronize()
        assert torch.allclose(found, layer(given), atol=1e-5)
    replay = None
    ranks.abort()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
async def test_a_model_answers_alike_on_one_gpu_and_on_two(tmp_path: Path) -> None:
    """Through the daemon, with NCCL between the ranks."""
    source = str(write_tiny_model(tmp_path / "tiny"))
    shape: dict[str, Any] = {"source": source, "vram_mb": 2000, "context": 512}
    models = [{"id": f"tp{size}", "tensor_parallel": size, **shape} for size in (1, 2)]
    seen = []
    async with running_neuron(models, REAL, devices="all") as neuron:
        for size in (1, 2):
            assert (await neuron.post("/models/load", {"model_id": f"tp{size}"})).status == 200
            row = await neuron.until_status("loaded", f"tp{size}", 120.0)
            assert len(row["devices"]) == size
            answer = await neuron.post("/v1/completions", {"model": f"tp{size}", **GREEDY})
            seen.append(answer.json["choices"][0]["token_ids"])
            await neuron.post("/models/unload", {"model_id": f"tp{size}"})
        told = [line["backend"] for line in neuron.log() if line["event"] == "engine_backend"]
    assert seen[0] == seen[1]
    assert told[0].partition("; steps")[0] == told[1].partition("; steps")[0]  # graphs on both, or on neither
