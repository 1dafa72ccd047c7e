"""Variables of the NVIDIA roles, as the inventory's judge sees them."""

from __future__ import annotations

from typing import Any

import pytest

from cortex_contracts.inventory.problems import problems

GROUPS = {"gateway": ["gw"], "neurons": ["rack"]}


def found(**variables: Any) -> list[str]:
    return problems({"gw": {}, "rack": variables}, GROUPS)


def test_versions_settings_and_mirrors_are_taken() -> None:
    """A branch or a version, NCCL's own names, any address a host can fetch from."""
    assert not found(
        nvidia_driver_version="580.95.05",
        nvidia_driver_repository="https://mirror.example/nvidia",
        nvidia_driver_repository_key="file:///srv/nvidia/key.asc",
        nvidia_driver_packages=["nvidia-open", "linux-modules-nvidia-580-open-generic"],
        nvidia_cuda_toolkit="13.0",
        nvidia_nccl_conf={"NCCL_SOCKET_IFNAME": "=eth0", "NCCL_IB_HCA": "mlx5_0:1,mlx5_1:1"},
    )
    assert not found(nvidia_driver_version="595.84", nvidia_driver_manage="always")


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("nvidia_driver_version", "latest", "should be such as '580' or '580.95.05', is 'latest'"),
        ("nvidia_driver_version", 580.95, "should be such as '580' or '580.95.05', is 580.95"),
        ("nvidia_driver_repository", "nv", "should be such as '' or 'https://mirror.example/nvidia/', is 'nv'"),
        ("nvidia_cuda_toolkit", 13.0, "should be such as 'none' or '13.0', is 13.0"),
        ("nvidia_driver_mange", "never", "no such variable; did you mean nvidia_driver_manage?"),
        ("nvidia_nccl_config", {}, "no such variable; did you mean nvidia_nccl_conf?"),
    ],
)  # fmt: skip
def test_a_fault_is_told_in_the_inventory_s_words(name: str, value: Any, line: str) -> None:
    """Before any host is touched, as with all other variables."""
    assert found(**{name: value}) == [f"host rack: {name}: {line}"]


@pytest.mark.parametrize("conf", [{"PATH": "/"}, {"NCCL_DEBUG": "INFO\nNCCL_X=1"}, {"NCCL_IB_DISABLE": True}])
def test_nccl_conf_holds_lines_that_nccl_reads(conf: dict[str, Any]) -> None:
    """Another name would be ignored in silence, a newline would start another setting, yes is no value of NCCL's."""
    [line] = found(nvidia_nccl_conf=conf)
    assert line.startswith(f"host rack: nvidia_nccl_conf.{next(iter(conf))}")


def test_what_other_roles_call_theirs_is_none_of_ours() -> None:
    """Only the prefixes of these three roles are judged."""
    assert not found(nvidia_container_toolkit_version="1.17")
