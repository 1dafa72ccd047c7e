"""What a model that sleeps gives back: weights that go to host memory and come back, and the engine with its cache.

On a CPU: what differs on a GPU is who has the memory.
"""

from __future__ import annotations

import array
import gc
import weakref
from dataclasses import dataclass

import pytest
import torch
from stand_in import start_engine
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from cortex_neuron.engine.kv_cache import CacheSize
from cortex_neuron.engine.rest import Rest
from cortex_neuron.models.host_copy import HostCopy, storages
from cortex_neuron.protocol.failures import BadRequest, CannotLoad
from cortex_neuron.protocol.frames import SamplingParams, Submit

CPU = torch.device("cpu")


class Odd(nn.Module):
    """Tied weights, a buffer, a view of a weight, and a tensor that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.tied = nn.Linear(3, 5), nn.Linear(3, 5)
        self.tied.weight = self.first.weight
        self.register_buffer("angles", torch.arange(4.0))
        self.packed = torch.arange(6, dtype=torch.int8)
        self.nothing: torch.Tensor | None = None


@dataclass(frozen=True)
class Model:
    """As much of one as sleeps."""

    module: nn.Module
    device: torch.device
    num_bytes: int


def test_weights_are_gone_and_come_back_where_they_were() -> None:
    """The same objects with the same content; what shares memory shares it again, and is counted once."""
    module = Odd()
    view, before = module.first.weight[1:], {name: each.clone() for name, each in module.state_dict().items()}
    parts = storages([module], CPU)
    copy = HostCopy([module], CPU)
    assert copy.num_bytes == (15 + 5 + 5 + 4) * 4 + 6
    assert [part.nbytes() for part in parts] == [0] * len(parts)
    copy.restore()
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())
    assert torch.equal(module.packed, torch.arange(6, dtype=torch.int8))
    assert module.tied.weight.data_ptr() == module.first.weight.data_ptr()
    assert torch.equal(view, before["first.weight"][1:])


def test_a_weight_of_several_tensors_is_copied_with_all_of_them() -> None:
    """As torchao's rounded weights are: values, and their scales."""
    module = nn.Module()
    values, scales = torch.arange(8.0), torch.ones(8)
    module.weight = nn.Parameter(TwoTensor(values, scales), requires_grad=False)
    copy = HostCopy([module], CPU)
    assert copy.num_bytes == 64
    assert (values.untyped_storage().nbytes(), scales.untyped_storage().nbytes()) == (0, 0)
    copy.restore()
    assert torch.equal(values, torch.arange(8.0))
    assert torch.equal(scales, torch.ones(8))


def test_memory_that_is_another_s_is_not_given_back() -> None:
    """Such as an array's, or a file's pages: the model is then unloaded, and nothing of it has been touched."""
    module = Odd()
    module.packed = torch.from_numpy(torch.arange(6, dtype=torch.int8).numpy().copy())
    with pytest.raises(CannotLoad, match="cannot be given back"):
        HostCopy([module], CPU)
    assert module.first.weight.untyped_storage().nbytes() == 60


def test_a_model_on_a_cpu_sleeps_where_it_is() -> None:
    """Its weights are in host memory already; only what was made of it is made anew. Twice asleep is a mistake."""
    module, told = Odd(), []
    rest = Rest(lambda: "engine", Model(module, CPU, 2 << 20), Model(Odd(), CPU, 1 << 20))
    address = module.first.weight.data_ptr()
    with pytest.raises(BadRequest):
        rest.end(lambda *_: None)
    assert rest.begin() == 3
    with pytest.raises(BadRequest):
        rest.begin()
    assert rest.end(lambda *phase: told.append(phase)) == "engine"
    assert module.first.weight.data_ptr() == address
    assert told == [("weights", 0.1), ("cache", 0.9)]


def test_an_engine_that_is_let_go_takes_its_cache_along_at_once() -> None:
    """Nothing refers to it in a circle: on a CPU nobody looks for that before it says that the memory is free."""
    engine, _ = start_engine(CacheSize(4, 8, 32), 2, 8)
    for number in range(3):
        prompt = array.array("i", [1, 2, 3, 4, 5]).tobytes()
        engine.submit(Submit(id=number, prompt=prompt, max_tokens=3, sampling=SamplingParams(temperature=0)))
    engine.step()
    cache = weakref.ref(engine.cache)
    gc.disable()
    try:
        del engine
        assert cache() is None
    finally:
        gc.enable()
