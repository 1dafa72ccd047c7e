"""What a request's body must be before it is read. Called by: the api package of each service."""

from __future__ import annotations

from sanic import Request

from cortex_contracts.wire.errors import UnsupportedMediaType

_JSON = "application/json"
_AS_IT_IS = "identity"


def check_media_type(request: Request) -> None:
    """Raises UnsupportedMediaType where the client says that its body is something else, or compressed."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given and given != _JSON and not given.endswith("+json"):
        raise UnsupportedMediaType(f"the body is said to be {given!r}; send JSON with `Content-Type: {_JSON}`")
    encoding = request.headers.get("content-encoding", _AS_IT_IS).strip().lower()
    if encoding != _AS_IT_IS:
        raise UnsupportedMediaType(f"the body is said to be compressed ({encoding!r}); send it as it is")
