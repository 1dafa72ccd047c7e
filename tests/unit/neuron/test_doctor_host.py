"""What `cortex doctor` makes of what driver and torch say, and its last words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fake_nvml
import pytest

from cortex_neuron.cli import _parser
from cortex_neuron.doctor import host, options, probes, verdict
from cortex_neuron.doctor.facts import DriverFacts, Failure, Gpu, RankDevice, TorchFacts
from cortex_neuron.doctor.findings import all_reduce
from cortex_neuron.doctor.options import DeviceNames, Order

CPU = Gpu(index=0, name="Some CPU", free_mb=1000)
GPUS = tuple(Gpu(index=index, name="RTX 3060", free_mb=11000) for index in range(2))
DRIVER = DriverFacts(present=True, version="580.95.05", cuda_version="13.1", gpus=GPUS)
LOST = DRIVER.model_copy(update={"problem": "GPU 1: GPU is lost", "gpus": GPUS[:1]})
MISMATCH = DriverFacts(present=True, problem="driver/library version mismatch: reboot")
NONE = DriverFacts(present=False)
TORCH = TorchFacts(version="2.13.0", cuda_version="13.0", nccl_version="2.29.3", num_devices=2)


def order(devices: DeviceNames = "all", num_ranks: int | None = None) -> Order:
    return Order(devices, num_ranks, None, 60.0)


@pytest.mark.parametrize(
    ("devices", "driver", "kind"),
    [
        ("all", DRIVER, None),
        ((0, 1), DRIVER, None),
        ("all", NONE, None),
        ("cpu", MISMATCH, None),
        ((0,), LOST, None),  # of another GPU
        ((0,), NONE, "cuda_not_available"),
        ("all", MISMATCH, "cuda_not_available"),
        ((0,), MISMATCH, "cuda_not_available"),
        ("all", LOST, "device_lost"),
        ((1,), LOST, "device_lost"),
    ],
)
def test_a_driver_is_as_good_as_what_is_asked_of_it(
    devices: DeviceNames, driver: DriverFacts, kind: str | None
) -> None:
    """Its problem is told in any case."""
    judged = host.judge_driver(order(devices), driver)
    assert judged.kind == kind
    assert (driver.problem or "") in judged.words


@pytest.mark.parametrize(
    ("devices", "num_ranks", "driver", "chosen", "outcome"),
    [
        ("all", None, DRIVER, ["cuda:0", "cuda:1"], "ok"),
        ("all", 1, DRIVER, ["cuda:0"], "ok"),
        ((1, 0), None, DRIVER, ["cuda:1", "cuda:0"], "ok"),
        ("all", 2, NONE, ["cpu", "cpu"], "ok"),
        ("cpu", None, DRIVER, ["cpu"], "ok"),
        ("all", 4, DRIVER, ["cuda:0", "cuda:1"], "failed"),
        ((0, 7), None, DRIVER, ["cuda:0", "cuda:7"], "failed"),
        ((0, 1), None, MISMATCH, ["cuda:0", "cuda:1"], "skipped"),
        ("all", None, DRIVER.model_copy(update={"gpus": ()}), [], "failed"),
    ],
)
def test_each_rank_has_a_device_of_its_own(
    devices: DeviceNames, num_ranks: int | None, driver: DriverFacts, chosen: list[str], outcome: str
) -> None:
    """In the order that is asked for; what is not there is said, and no CPU is put in its place."""
    found, judged = host.choose(order(devices, num_ranks), driver, CPU)
    assert [each.device for each in found] == chosen
    assert judged.outcome == outcome
    assert ("no cuda:7" in judged.words) == ("cuda:7" in chosen)


@pytest.mark.parametrize(
    ("changed", "on_gpus", "kind"),
    [
        ({}, True, None),
        ({"cuda_version": None, "nccl_version": None}, False, None),
        ({"cuda_version": None, "nccl_version": None}, True, "cuda_feature_not_enabled"),
        ({"nccl_version": None}, True, "cuda_feature_not_enabled"),
        ({"num_devices": 0, "problem": "Error 802: system not yet initialized"}, True, "cuda_not_available"),
        ({"version": None, "problem": "OSError: libcudart.so"}, False, "load_failed"),
    ],
)
def test_torch_is_as_good_as_its_build(changed: dict[str, object], on_gpus: bool, kind: str | None) -> None:
    """And what it says of why it finds nothing is passed on."""
    torch = TORCH.model_copy(update=changed)
    judged = host.judge_torch(torch, on_gpus)
    assert judged.kind == kind
    assert (torch.problem or "") in judged.words


def test_of_several_faults_the_most_basic_is_the_kind_and_all_are_told() -> None:
    """As a rank would decide; the driver's is no less a fault."""
    wrong = [
        host.judge_driver(order((0,)), NONE),
        host.judge_torch(TORCH.model_copy(update={"cuda_version": None}), on_gpus=True),
    ]
    failure = host.failure_of(wrong)
    assert failure is not None
    assert (failure.step, failure.kind) == ("torch", "cuda_feature_not_enabled")
    assert failure.message == "torch 2.13.0 was built without CUDA; there is no NVIDIA driver"
    assert host.failure_of([host.judge_driver(order(), DRIVER)]) is None


def test_the_verdict_is_one_sentence_with_what_to_do() -> None:
    """What works or does not, where, whose fault it is, its kind, and advice."""
    two = [RankDevice(rank=rank, device=f"cuda:{rank}") for rank in range(2)]
    assert verdict.of(two, None) == "tensor parallelism over 2 devices (cuda:0, cuda:1) works"
    assert verdict.of(two[:1], None) == "cuda:0 works; tensor parallelism needs two devices"
    failure = Failure(step="handshake", kind="cuda_device_not_found", message="device cuda:1:\n only 1", rank=1)
    assert verdict.of(two, failure) == (
        "tensor parallelism over 2 devices (cuda:0, cuda:1) does not work: handshake: "
        "rank 1: device cuda:1: only 1 (cuda_device_not_found); name devices that nvidia-smi -L lists"
    )
    mismatch = Failure(step="driver", kind="cuda_not_available", message=MISMATCH.problem or "")
    assert verdict.of([], mismatch).endswith("(cuda_not_available); reboot the host")
    assert len(verdict.of(two, failure.model_copy(update={"message": "x" * 10_000}))) < 700


def test_bandwidths_are_those_of_nccl_tests() -> None:
    """Algorithm: what is put in, by the time of the sample in the middle. Bus: 2(n-1)/n of it."""
    found = all_reduce(100, [0.5, 0.01, 0.02, 0.001, 0.02], num_ranks=4)
    assert found.median_ms == 20.0
    assert found.algorithm_gb_s == pytest.approx(100 * 2**20 / 0.02 / 1e9, rel=1e-3)
    assert found.bus_gb_s == pytest.approx(found.algorithm_gb_s * 1.5, rel=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--tp", "0"], ["--tp", "x"], ["--devices", "gpu"], ["--devices", "0,,1"], ["--devices", "1,1"],
        ["--size-mb", "1,0"], ["--size-mb", "²"], ["--timeout-s", "0"], ["--timeout-s", "nan"], ["--timeout-s", "inf"],
    ],
)  # fmt: skip
def test_an_option_that_is_none_is_named(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With exit code 2."""
    with pytest.raises(SystemExit) as ended:
        _parser().parse_args(["doctor", *wrong])
    assert ended.value.code == 2
    assert f"argument {wrong[0]}: " in capsys.readouterr().err


def test_the_file_may_be_named_before_the_command_or_after() -> None:
    """And without the command there is the daemon's, as ever."""
    for arguments in (["--config", "x", "doctor"], ["doctor", "--config", "x"]):
        chosen = _parser().parse_args(arguments)
        assert (chosen.command, chosen.config) == ("doctor", "x")
    assert _parser().parse_args(["doctor"]).config is None
    assert _parser().parse_args(["--config", "x"]).command is None
    order_of = options.order(_parser().parse_args(["doctor", "--tp", "1", "--size-mb", "1,4"]), (0, 1))
    assert (order_of.devices, order_of.num_ranks, order_of.sizes_mb) == ((0, 1), 1, (1, 4))


async def test_the_driver_is_asked_by_a_process_that_can_be_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that hangs hangs that process alone, which is killed; of one that fails the last words are kept."""
    for name, value in fake_nvml.environment(fake_nvml.build(tmp_path), GPUS=2).items():
        monkeypatch.setenv(name, value)
    found = await probes.ask("cortex_neuron.doctor.driver_probe", DriverFacts, 30.0)
    assert [(gpu.index, gpu.free_mb) for gpu in found.gpus] == [(0, 11264), (1, 10240)]
    (tmp_path / "hanging.py").write_text("import time\ntime.sleep(3600)\n")
    (tmp_path / "raising.py").write_text("raise RuntimeError('no such thing')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(probes.Unanswered, match=r"no answer within 0.3 s"):
        await probes.ask("hanging", DriverFacts, 0.3)
    with pytest.raises(probes.Unanswered, match="RuntimeError: no such thing"):
        await probes.ask("raising", DriverFacts, 30.0)


def test_where_the_neuron_is_not_installed_cortex_says_so(tmp_path: Path) -> None:
    """With the folder that it has looked at, and exit code 2."""
    places = f"sys.executable, sys.argv[0] = {str(tmp_path / 'python')!r}, {str(tmp_path / 'cortex')!r}"
    code = f"import sys; {places}; from cortex_status.cli import cortex; sys.exit(cortex())"
    command = [sys.executable, "-c", code, "doctor", "--tp", "2"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith(f"cortex-neuron is not in {tmp_path}: cortex doctor examines the host it is run on")
