"""Our fused kernels: on a GPU where there is one, else in Triton's interpreter (tests/conftest.py)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cortex_neuron.layers import ops_trial
from cortex_neuron.layers.fused_ops import Ops, PlainOps
from cortex_neuron.layers.ops_trial import Sizes
from cortex_neuron.layers.stored import FP8, Place

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LLAMA = Sizes(8, 2, 64, 64, False, 96, torch.float32)

pytestmark = pytest.mark.filterwarnings("default")  # Triton's own warnings


@pytest.fixture
def kernels() -> Ops:
    """layers.triton_fused."""
    pytest.importorskip("triton", reason="Triton is not installed: CUDA's torch brings it")
    from cortex_neuron.layers.triton_fused import TritonOps

    return TritonOps()


@pytest.mark.parametrize(
    "sizes",
    [
        LLAMA,
        Sizes(6, 2, 80, 40, True, 100, torch.float32),
        Sizes(4, 4, 16, 0, False, 64, torch.float16),
        Sizes(8, 1, 128, 128, True, 256, torch.bfloat16),
    ],
    ids=["plain", "odd sizes, half of a head, normed", "nothing turned, float16", "one kv head, normed, bfloat16"],
)
def test_they_give_what_torch_gives(sizes: Sizes, kernels: Ops) -> None:
    """From views of a joined product, into a cache of the model's type; into one of float8 on a GPU alone, for the
    interpreter of Triton 3.7 rounds to that wrongly: 1.99 to 1."""
    assert ops_trial.fault(kernels, sizes, DEVICE, with_fp8=DEVICE.type == "cuda") is None


def test_what_a_cache_in_float8_has_no_room_for_is_cut(kernels: Ops) -> None:
    """Numbers that it has are written as they are. What attends in this step sees them uncut."""
    k = torch.tensor([0.25, -3.5, 448, -448, 1e4, -1e4, 0, 15], device=DEVICE).view(1, 1, 8)
    v = -2 * k
    place = Place(*(torch.zeros(3, 1, 8, device=DEVICE).to(FP8) for _ in range(2)), torch.tensor([2], device=DEVICE))
    q, turned = kernels.turn(k.repeat(1, 2, 1), k, v, None, None, place)
    assert torch.equal(q, k.repeat(1, 2, 1))
    assert torch.equal(turned, k)
    for cache, given in ((place.keys, k), (place.values, v)):
        assert torch.equal(cache[2].float(), given[0].clamp(-448, 448))
        assert not cache[:2].float().any()


class Wrong(PlainOps):
    """Operations of which one is not right; `spoil` says how."""

    def __init__(self, name: str, spoil: Any) -> None:
        own = getattr(PlainOps, name)
        setattr(self, name, lambda *given: spoil(own(self, *given)))


def _break(_: Any) -> Any:
    raise RuntimeError("no compiler\nat all")


def _keys_of_another(found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return found[0], found[1].flip(1)


@pytest.mark.parametrize(
    ("name", "spoil", "fault"),
    [
        ("gate", lambda found: found * 1.05, "they failed a trial: gate is 0.05"),
        ("gate", lambda found: found * torch.nan, "they failed a trial: gate is inf off"),
        ("add_norm", lambda found: (found[0], found[1] + 0.1), "they failed a trial: add_norm is 0.1"),
        ("turn", _keys_of_another, "they failed a trial: turn is "),
        ("turn", _break, "they failed a trial: RuntimeError: no compiler"),
    ],
)
def test_a_trial_tells_what_is_wrong(name: str, spoil: Any, fault: str) -> None:
    """Where one differs, is not finite, or breaks; right ones pass."""
    cpu = torch.device("cpu")
    assert ops_trial.fault(PlainOps(), LLAMA, cpu) is None
    found = ops_trial.fault(Wrong(name, spoil), LLAMA, cpu)
    assert found is not None
    assert found.startswith(fault)


def test_a_trial_sees_what_is_written_to_the_cache() -> None:
    """A kernel that turns well and stores nothing is found."""

    class Forgetful(PlainOps):
        def turn(self, *given: Any) -> Any:
            return super().turn(*given[:-1], ops_trial._place(LLAMA, torch.float32, torch.device("cpu")))

    found = ops_trial.fault(Forgetful(), LLAMA, torch.device("cpu"))
    assert found is not None
    assert found.startswith("they failed a trial: turn is")
