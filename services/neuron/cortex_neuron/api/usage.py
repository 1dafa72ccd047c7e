"""What a request took, told to a gateway that wants to know: a header, or a comment in a stream.

Called by: inference, passing_on.
"""

from __future__ import annotations

import dataclasses
import json

from sanic import Request

from cortex_dialects import sse
from cortex_neuron.inference.answer import Record

_HEADER = "x-cortex-usage"


def is_wanted(request: Request) -> bool:
    """Whether it is to be told."""
    return _HEADER in request.headers


def headers(request: Request, record: Record) -> dict[str, str]:
    """Those of an answer that is not streamed."""
    return {_HEADER: _json(record)} if is_wanted(request) else {}


def comment(record: Record) -> bytes:
    """The event that tells it in a stream; other readers skip it."""
    return sse.comment(f"cortex-usage {_json(record)}")


def _json(record: Record) -> str:
    return json.dumps({**dataclasses.asdict(record.usage()), "finish_reason": record.finish_reason})
