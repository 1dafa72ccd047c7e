"""The last line: what works, or what does not and what to do. Pure.

Owns: the words. Called by: findings.
"""

from __future__ import annotations

from collections.abc import Sequence

from cortex_neuron.doctor.facts import Failure, RankDevice

_LONGEST = 400  # of torch's messages: the document has them whole
_KERNEL_LOG = "look for it in the kernel's log, journalctl -k"
_P2P = "where it works with NCCL_P2P_DISABLE=1 in neuron_environment, it is the way from device to device (IOMMU, ACS)"
ADVICE = {
    "cuda_feature_not_enabled": "install a torch that was built with CUDA",
    "cuda_not_available": "see that nvidia-smi works, as the service's user, too",
    "cuda_device_not_found": "name devices that nvidia-smi -L lists",
    "device_lost": f"{_KERNEL_LOG} (Xid), then reboot the host",
    "out_of_memory": "unload what holds the memory, or take a smaller --size-mb",
    "nccl_init_failed": "run it again with NCCL_DEBUG=INFO in the environment",
    "nccl_sanity_failed": _P2P,
    "rank_died": _KERNEL_LOG,
    "spawn_failed": "run it again: the host may have been busy",
    "hello_timeout": "run it again: the host may have been busy",
    "ping_timeout": f"its driver may hang: {_KERNEL_LOG}, then reboot the host",
    "load_failed": "install the neuron anew",
}


def of(devices: Sequence[RankDevice], failure: Failure | None) -> str:
    """One sentence. `devices` is empty where it came to none."""
    subject = _subject(devices)
    if failure is None:
        return f"{subject} works" + ("; tensor parallelism needs two devices" if len(devices) == 1 else "")
    advice = "reboot the host" if "reboot" in failure.message else ADVICE.get(failure.kind, "run it again with --json")
    return f"{subject} does not work: {failure.step}: {blamed(failure)}; {advice}"


def blamed(failure: Failure) -> str:
    """Rank, message and kind."""
    message = " ".join(failure.message.split())
    message = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"
    who = "" if failure.rank is None or f"rank {failure.rank}" in message else f"rank {failure.rank}: "
    return f"{who}{message} ({failure.kind})"


def _subject(devices: Sequence[RankDevice]) -> str:
    if not devices:
        return "tensor parallelism on this host"
    if len(devices) == 1:
        return devices[0].device
    if devices[0].device == "cpu":
        return f"tensor parallelism over {len(devices)} ranks on the CPU"
    return f"tensor parallelism over {len(devices)} devices ({', '.join(each.device for each in devices)})"
