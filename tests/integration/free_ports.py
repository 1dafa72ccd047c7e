"""Ports that nobody listens on. Called by: whatever starts a process or a server of its own."""

from __future__ import annotations

import random
import socket

# Below those that the kernel gives to connections: one of them could take a server's port before it starts, or while it
# is down and about to come back.
_FIRST, _LAST = 20_000, 32_767
_ATTEMPTS = 100


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    for port in random.sample(range(_FIRST, _LAST + 1), _ATTEMPTS):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"none of {_ATTEMPTS} ports from {_FIRST} to {_LAST} is free")
