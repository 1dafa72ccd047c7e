"""The data plane of a tensor-parallel group: NCCL between GPUs, gloo between CPU processes.

Owns: the communicator id and its codec, which backend a device has, and the collectives a sharded model needs. Does not
own: who tells whom the id (engine.leader, engine.worker), deadlines of the whole handshake, or what is sharded
(layers.parallel).

Both backends are torch.distributed's process groups, made without its default group, so that the handshake that runs on
GPUs is the one every test runs on a CPU. They meet at a store that the leader hosts. The id is 128 bytes, as long as
NCCL's own: a magic, the store's address and port, and a random tail that prefixes every key, so that whoever does not
know it cannot join. On the wire it is 256 lowercase hex characters.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from cortex_neuron.models.devices import find_device, free_bytes
from cortex_neuron.protocol.failures import CudaNotBuilt, NcclInitFailed, NcclNotInitialised, NcclSanityFailed

ID_BYTES = 128
_MAGIC = b"CORTEXC1"
_HEAD = struct.Struct("!8s4sH")
dist: Any = torch.distributed  # whose stubs name neither its stores nor what its groups take
_LOOPBACK = "127.0.0.1"
_NCCL_SETTINGS = {
    # A watchdog of torch's own would end the process by itself: deadlines are the daemon's, which reports them.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    # What a graph sends is small. To register it ranks would wait for each other while they record, and for one that
    # has failed for ever.
    "NCCL_GRAPH_REGISTER": "0",
}
# Ranks that load come to it at unlike times. Which one is too late is the daemon's to say, whose deadline is a load's.
_WHILE_LOADING = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class CommunicatorId:
    """Where a group meets, and the secret that lets a rank in."""

    host: str
    port: int
    tail: bytes

    def __str__(self) -> str:
        """256 lowercase hex characters."""
        head = _HEAD.pack(_MAGIC, ipaddress.IPv4Address(self.host).packed, self.port)
        return (head + self.tail).hex()

    @classmethod
    def parse(cls, text: str) -> CommunicatorId:
        """Raises NcclInitFailed, which says what is wrong: odd length, no hex, wrong size, not an id of ours."""
        if len(text) % 2:
            raise NcclInitFailed(f"comm_id has an odd number of hex characters, {len(text)}")
        try:
            raw = bytes.fromhex(text)
        except ValueError as error:
            raise NcclInitFailed(f"comm_id is not hex: {error}") from error
        if len(raw) != ID_BYTES or len(text) != 2 * ID_BYTES:  # fromhex reads over white space
            raise NcclInitFailed(f"comm_id is {len(raw)} bytes, expected {ID_BYTES}")
        magic, host, port = _HEAD.unpack_from(raw)
        if magic != _MAGIC:
            raise NcclInitFailed(f"comm_id begins with {magic.hex()}, expected {_MAGIC.hex()}: it is no id of cortex")
        return cls(str(ipaddress.IPv4Address(host)), port, raw[_HEAD.size :])


class Rendezvous:
    """The leader's store: mint an id, join it as rank 0, let the others join."""

    def __init__(self, timeout_s: float) -> None:
        """Listens on a free port of the loopback address. Raises NcclInitFailed."""
        try:
            self.store = dist.TCPStore(_LOOPBACK, 0, None, True, timedelta(seconds=timeout_s), wait_for_workers=False)
        except RuntimeError as error:
            raise NcclInitFailed(f"the leader cannot listen: {error}") from error
        self.id = CommunicatorId(_LOOPBACK, self.store.port, secrets.token_bytes(ID_BYTES - _HEAD.size))


class Communicator:
    """What the ranks of one group compute together: `layers.parallel.Collectives`.

    `free_before`: bytes of the device, before the group took any.
    """

    def __init__(self, group: Any, store: Any, rank: int, world_size: int, device: torch.device, free_before: int):
        self.rank, self.world_size, self.device = rank, world_size, device
        self.free_before = free_before
        self.num_entered = 0
        self._group = group
        self._store = store  # what the group was made with lives as long as it

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place; every rank gets it. `tensor` is contiguous, of one shape on every rank."""
        self.num_entered += 1
        self._group.allreduce([tensor]).wait()
        return tensor

    def gather(self, tensor: Tensor) -> Tensor | None:
        """[..., n] of each rank -> [..., n * world_size] in the order of ranks at rank 0, None elsewhere."""
        self.num_entered += 1
        options = dist.GatherOptions()
        options.rootRank = 0
        tensor = tensor.contiguous()
        if self.rank:
            self._group.gather([], [tensor], options).wait()
            return None
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        self._group.gather([parts], [tensor], options).wait()
        return torch.cat(parts, -1)

    def smallest(self, number: int) -> int:
        """The smallest number that a rank has come with."""
        self.num_entered += 1
        options = dist.AllreduceOptions()
        options.reduceOp, options.timeout = dist.ReduceOp.MIN, _WHILE_LOADING
        found = torch.tensor([number], dtype=torch.int64, device=self.device)
        self._group.allreduce([found], options).wait()
        return int(found.item())

    def observed_sum(self) -> int:
        """What this rank sees when every rank adds 1. Raises NcclSanityFailed."""
        one = torch.ones(1, dtype=torch.int32, device=self.device)
        try:
            return int(self.all_reduce(one).item())
        except RuntimeError as error:
            raise NcclSanityFailed(f"rank {self.rank} cannot add up with the others: {error}") from error

    def abort(self) -> None:
        """Leave, whatever is under way: the others' collectives fail."""
        self._group.abort()


def sane(observed: int, rank: int, world_size: int) -> None:
    """Raises NcclSanityFailed where a rank has seen another sum than the number of ranks."""
    if observed != world_size:
        raise NcclSanityFailed(f"rank {rank} observed a sum of {observed} over {world_size} ranks that add 1 each")


def initialised(communicator: Communicator | None) -> Communicator:
    """Raises NcclNotInitialised where init has not come before."""
    if communicator is None:
        raise NcclNotInitialised("there is no communicator: init comes first")
    return communicator


def join(
    comm_id: str, rank: int, world_size: int, device_name: str, timeout_s: float, store: Any | None = None
) -> Communicator:
    """Become `rank` of the group; blocks until all have joined. `store` is the leader's own.

    What can be known beforehand is decided before anything is touched, most basic first, and each rank decides alike:
    CudaNotBuilt, CudaNotAvailable, CudaDeviceNotFound (models.devices), then NcclInitFailed for the id and the rest.
    """
    device = find_device(device_name)
    if device.type == "cuda" and not dist.is_nccl_available():
        raise CudaNotBuilt(f"device {device_name}: torch {torch.__version__} was built without NCCL")
    met = CommunicatorId.parse(comm_id)
    free_before = free_bytes(device_name)
    timeout = timedelta(seconds=timeout_s)
    try:
        if store is None:
            store = dist.TCPStore(met.host, met.port, None, False, timeout)
        prefixed = dist.PrefixStore(met.tail.hex(), store)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        group = _BACKENDS[device.type](prefixed, rank, world_size, timeout)
    except (RuntimeError, ValueError, OSError) as error:  # torch's own are RuntimeErrors
        raise NcclInitFailed(f"rank {rank} of {world_size} cannot join: {error}") from error
    return Communicator(group, store, rank, world_size, device, free_before)


def _gloo(store: Any, rank: int, world_size: int, timeout: timedelta) -> Any:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback_name())
    return dist.ProcessGroupGloo(store, rank, world_size, timeout)


def _nccl(store: Any, rank: int, world_size: int, timeout: timedelta) -> Any:
    for name, value in _NCCL_SETTINGS.items():
        os.environ.setdefault(name, value)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    return dist.ProcessGroupNCCL(store, rank, world_size, options)


# A CPU process never gets NCCL, a GPU never gloo: `device` decides, and nothing falls back.
_BACKENDS: dict[str, Callable[[Any, int, int, timedelta], Any]] = {"cpu": _gloo, "cuda": _nccl}


def _loopback_name() -> str:
    """The interface that has 127.0.0.1; ranks of a host need no other."""
    names = [name for _, name in socket.if_nameindex()]
    return "lo" if "lo" in names else names[0]
