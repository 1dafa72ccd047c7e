"""What a GPU host has of NVIDIA: variables that the roles nvidia_driver, nvidia_cuda and nvidia_nccl read.

Owns: names, types, defaults and limits of these. Does not own: what a distribution calls the packages, or where NVIDIA
publishes them (the role nvidia_driver's vars).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cortex_contracts.inventory.strict import Strict

DriverVersion = Annotated[str, Field(pattern=r"^[0-9]{3}(\.[0-9]{2,3}){0,2}$", examples=["580", "580.95.05"])]
Address = Annotated[
    str, Field(pattern=r"^((https?|file)://[^\s/]*/\S*)?$", examples=["", "https://mirror.example/nvidia/"])
]
PackageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
ToolkitVersion = Annotated[str, Field(pattern=r"^(none|[0-9]{2}\.[0-9])$", examples=["none", "13.0"])]
# A line of nccl.conf ends at the newline, and NCCL reads no variable of another name from there.
NcclName = Annotated[str, Field(pattern=r"^NCCL_[A-Z0-9_]+$")]
NcclValue = Annotated[str, Field(pattern=r"^[^\n#]+$")]


class NvidiaDriver(Strict):
    """The driver of a host with NVIDIA GPUs: variables `nvidia_driver_*`."""

    manage: Annotated[
        Literal["auto", "always", "never"],
        Field(
            description="auto: a host with an NVIDIA GPU on its PCI bus gets the driver, unless it runs one already "
            "that is not from here, neuron_devices is cpu, or systemd does not run it; always: another's is replaced; "
            "never: the driver is yours"
        ),
    ] = "auto"
    version: Annotated[
        DriverVersion,
        Field(
            description="Branch of the driver, or one version of it. What is installed is held: a host changes only "
            "where it has none of this"
        ),
    ] = "580"
    open_modules: Annotated[
        bool, Field(description="NVIDIA's open kernel modules; GPUs older than Turing need the closed ones")
    ] = True
    packages: Annotated[
        tuple[PackageName, ...],
        Field(description="Packages of the driver; empty is what a server without a display needs"),
    ] = ()
    repository: Annotated[
        Address, Field(description="Repository with the packages, such as a mirror; empty is NVIDIA's own")
    ] = ""
    repository_key: Annotated[
        Address, Field(description="Key that signs it; empty is NVIDIA's, from beside the packages")
    ] = ""
    secure_boot: Annotated[
        Literal["check", "ignore"],
        Field(
            description="check: with Secure Boot on, nothing is installed before a key that signs modules is enrolled"
        ),
    ] = "check"
    fabric_manager: Annotated[
        Literal["auto", "never"], Field(description="auto: hosts with an NVSwitch run the fabric manager")
    ] = "auto"
    reboot: Annotated[
        bool, Field(description="Reboot a host where only that brings the installed driver into the kernel")
    ] = True
    reboot_timeout_s: Annotated[int, Field(ge=1, description="For a host to come back")] = 900


class NvidiaCuda(Strict):
    """The CUDA toolkit: variables `nvidia_cuda_*`."""

    toolkit: Annotated[
        ToolkitVersion,
        Field(description="Version of the CUDA toolkit, for hosts whose driver is from here; cortex needs none"),
    ] = "none"


class NvidiaNccl(Strict):
    """NCCL's settings for all programs of a host: variables `nvidia_nccl_*`."""

    conf: Annotated[
        dict[NcclName, NcclValue],
        Field(description="Variables of NCCL for /etc/nccl.conf, such as NCCL_SOCKET_IFNAME; empty means no file"),
    ] = {}  # noqa: RUF012  pydantic copies it
