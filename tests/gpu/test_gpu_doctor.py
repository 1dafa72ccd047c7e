"""`cortex doctor` on a host that has GPUs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cortex_neuron.doctor.facts import Report

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_the_host_is_healthy_over_all_of_its_gpus() -> None:
    """Driver, NCCL, the handshake; and where there is more than one GPU, bandwidth."""
    command = [str(Path(sys.executable).parent / "cortex"), "doctor", "--size-mb", "1,64", "--json"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert found.returncode == 0, found.stdout + found.stderr
    report = Report.model_validate_json(found.stdout)
    count = torch.cuda.device_count()
    assert [each.device for each in report.devices] == [f"cuda:{index}" for index in range(count)]
    assert report.torch is not None
    assert report.torch.nccl_version is not None
    assert [each.size_mb for each in report.all_reduce] == ([1, 64] if count > 1 else [])


def test_a_gpu_that_is_not_there_is_named() -> None:
    """And what there is."""
    command = [str(Path(sys.executable).parent / "cortex"), "doctor", "--devices", "0,63"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert found.returncode == 1
    assert "no cuda:63: the driver has cuda:0" in found.stdout
    assert "(cuda_device_not_found)" in found.stdout.splitlines()[-1]
