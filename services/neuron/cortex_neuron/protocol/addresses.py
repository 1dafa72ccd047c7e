"""How ranks are called and where they are met. Pure. Called by: both ends of every socket of a group."""

from __future__ import annotations

_RANK = b"rank-"


def identity(rank: int) -> bytes:
    """What a rank calls itself on a connection to a ROUTER."""
    return _RANK + b"%d" % rank


def rank_of(identity: bytes) -> int:
    """The other way round."""
    return int(identity.removeprefix(_RANK))


def peers_address(address: str) -> str:
    """Where the leader of a group listens to its workers, beside the daemon's `address`."""
    return f"{address}.ranks"
