"""What a client is told of an engine's error kind (kinds: docs/protocol.md)."""

from __future__ import annotations

from cortex_contracts.wire.errors import CortexError, EngineFailed, InvalidRequest, NonFiniteLogits

_BY_KIND: dict[str, type[CortexError]] = {
    "non_finite_logits": NonFiniteLogits,
    "bad_request": InvalidRequest,
}


def of_frame(kind: str, message: str) -> CortexError:
    """The error of one request; the group goes on (case T5)."""
    return _BY_KIND.get(kind, EngineFailed)(message)
