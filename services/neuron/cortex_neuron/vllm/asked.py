"""What the neuron must know of a request that it passes on, and the one thing it changes in it. Pure.

Called by: api/passing_on.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from cortex_contracts.wire.errors import InvalidJson, InvalidParameter

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_USAGE = "include_usage"


@dataclass(frozen=True, slots=True)
class Asked:
    """`body` is the client's own, unless it is streamed and asks for no usage: then it asks for that, too."""

    model: str
    stream: bool
    num_choices: int
    body: bytes
    hides_usage: bool  # the client has not asked for it, and is not to see it


def model_of(body: bytes) -> str | None:
    """The model that a body names; None where it names none, or is none."""
    try:
        name = _value(_decode(body), "model")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return name if isinstance(name, str) else None


def read(body: bytes) -> Asked:
    """Raises InvalidJson or InvalidParameter; all else is for vLLM to judge."""
    try:
        fields = _decode(body)
        model, stream, count = (_value(fields, name) for name in ("model", "stream", "n"))
        options = _value(fields, "stream_options")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as failure:
        raise InvalidJson(f"the body is not JSON: {failure}") from failure
    if not isinstance(stream, bool | None):
        raise InvalidParameter("stream: should be true or false", param="stream")
    hides = stream is True and isinstance(options, dict | None) and not (options or {}).get(_USAGE)
    if hides:
        asking = msgspec.Raw(msgspec.json.encode({**(options or {}), _USAGE: True}))
        body = msgspec.json.encode({**fields, "stream_options": asking})
    num_choices = count if isinstance(count, int) and count > 0 else 1
    return Asked(str(model or ""), stream is True, num_choices, body, hides)


def _value(fields: dict[str, msgspec.Raw], name: str) -> Any:
    return msgspec.json.decode(fields[name]) if name in fields else None
