"""Whether what driver and torch say is enough for what is to be examined. Pure.

Owns: the judgement, its words and its kinds. Does not own: the asking (probes). Called by: examination.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cortex_neuron.doctor.facts import DriverFacts, Failure, Gpu, Outcome, RankDevice, StepName, TorchFacts
from cortex_neuron.doctor.options import Order

# The most basic first, as a rank decides (docs/protocol.md).
_KINDS = ("load_failed", "cuda_feature_not_enabled", "cuda_not_available", "device_lost", "cuda_device_not_found")


@dataclass(frozen=True, slots=True)
class Judged:
    """One step. `kind` is what is wrong with it; None: nothing."""

    step: StepName
    words: str
    kind: str | None = None
    is_skipped: bool = False

    @property
    def outcome(self) -> Outcome:
        return "failed" if self.kind is not None else "skipped" if self.is_skipped else "ok"


def wants_gpus(order: Order, driver: DriverFacts) -> bool:
    """As the neuron itself decides: all devices of a host without a driver are its CPU."""
    return isinstance(order.devices, tuple) or (order.devices == "all" and driver.present)


def judge_driver(order: Order, driver: DriverFacts) -> Judged:
    """A GPU that nobody has asked for may be broken."""
    if not driver.present:
        missing = "cuda_not_available" if wants_gpus(order, driver) else None
        return Judged("driver", "there is no NVIDIA driver" + ("" if missing else ": models run on the CPU"), missing)
    versions = [driver.version, f"CUDA {driver.cuda_version}" if driver.cuda_version else None, driver.problem]
    words = ", ".join(each for each in versions if each)
    found = {gpu.index for gpu in driver.gpus}
    is_ours = order.devices == "all" or (isinstance(order.devices, tuple) and not found.issuperset(order.devices))
    if driver.problem is None or not is_ours:
        return Judged("driver", words)
    return Judged("driver", words, "device_lost" if driver.gpus else "cuda_not_available")


def choose(order: Order, driver: DriverFacts, cpu: Gpu) -> tuple[tuple[RankDevice, ...], Judged]:
    """The device of each rank. `cpu` is the host's, as if it were a GPU."""
    if not wants_gpus(order, driver):
        ranks = range(order.num_ranks or 1)
        devices = tuple(RankDevice(rank=rank, device="cpu", name=cpu.name, free_mb=cpu.free_mb) for rank in ranks)
        return devices, Judged("devices", f"{_ranks(len(devices))} on cpu, {cpu.name}, {cpu.free_mb} MB free")
    found = {gpu.index: gpu for gpu in driver.gpus}
    wanted = order.devices if isinstance(order.devices, tuple) else tuple(found)
    num_ranks = order.num_ranks or len(wanted)
    devices = tuple(_on_gpu(rank, index, found.get(index)) for rank, index in enumerate(wanted[:num_ranks]))
    return devices, _judge_devices(devices, num_ranks, wanted, driver)


def _judge_devices(devices: Sequence[RankDevice], num_ranks: int, wanted: Sequence[int], driver: DriverFacts) -> Judged:
    missing = [each.device for each in devices if each.name is None]
    if not driver.gpus:
        if driver.present and driver.problem is None:
            return Judged("devices", "the driver has no GPU", "cuda_not_available")
        return Judged("devices", "GPUs cannot be looked at without their driver", is_skipped=True)
    if missing:
        there = ", ".join(f"cuda:{gpu.index}" for gpu in driver.gpus)
        return Judged("devices", f"no {', '.join(missing)}: the driver has {there}", "cuda_device_not_found")
    if num_ranks > len(wanted):
        words = f"{_ranks(num_ranks)} need as many devices: the driver has {len(wanted)}"
        return Judged("devices", words, "cuda_device_not_found")
    return Judged("devices", "; ".join(f"{each.device} {each.name}, {each.free_mb} MB free" for each in devices))


def judge_torch(torch: TorchFacts, on_gpus: bool) -> Judged:
    """Whether it can compute there at all. How many devices it finds, and which, the ranks will see."""
    if torch.version is None:
        return Judged("torch", f"torch cannot be imported: {torch.problem}", "load_failed")
    named = f"torch {torch.version}"
    if on_gpus and (torch.cuda_version is None or torch.nccl_version is None):
        lacking = "CUDA" if torch.cuda_version is None else "NCCL"
        return Judged("torch", f"{named} was built without {lacking}", "cuda_feature_not_enabled")
    if on_gpus and not torch.num_devices:
        why = f": {torch.problem}" if torch.problem else ""
        return Judged("torch", f"{named} finds no CUDA driver or device{why}", "cuda_not_available")
    cuda = f"CUDA {torch.cuda_version}" if torch.cuda_version else "no CUDA"
    nccl = f"NCCL {torch.nccl_version}" if torch.nccl_version else "no NCCL"
    return Judged("torch", f"{named}, {cuda}, {nccl}")


def failure_of(judged: Sequence[Judged]) -> Failure | None:
    """The most basic of what is wrong, in the words of all of it; None where nothing is."""
    wrong = [(each.kind, each) for each in judged if each.kind is not None]
    if not wrong:
        return None
    wrong.sort(key=lambda each: _KINDS.index(each[0]))
    kind, first = wrong[0]
    return Failure(step=first.step, kind=kind, message="; ".join(each.words for _, each in wrong))


def _on_gpu(rank: int, index: int, gpu: Gpu | None) -> RankDevice:
    name, free_mb = (gpu.name, gpu.free_mb) if gpu is not None else (None, None)
    return RankDevice(rank=rank, device=f"cuda:{index}", name=name, free_mb=free_mb)


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"
