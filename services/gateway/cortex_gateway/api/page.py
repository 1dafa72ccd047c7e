"""The web page at /ui: its files, as they lie in the package. What it shows it asks of /fleet, with the admin key.

Owns: which files there are and the headers that keep the page to itself. Called by: api/routes.py.
"""

from __future__ import annotations

from importlib.resources import files

from sanic import HTTPResponse, Request

from cortex_contracts.wire.errors import RouteNotFound

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_INDEX = "index.html"
_HEADERS = {
    # Nothing from elsewhere, nothing inline, and no other site may frame it: it holds the admin key.
    "content-security-policy": "default-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Page:
    """The handler; all files are read at start."""

    def __init__(self) -> None:
        folder = files("cortex_gateway") / "page"
        self._files = {
            file.name: (file.read_bytes(), f"{kind}; charset=utf-8")
            for file in folder.iterdir()
            if (kind := _TYPES.get(file.name.rpartition(".")[2]))
        }

    async def __call__(self, _request: Request, name: str = _INDEX) -> HTTPResponse:
        known = self._files.get(name or _INDEX)
        if known is None:
            raise RouteNotFound(f"no file {name!r} under /ui")
        body, kind = known
        return HTTPResponse(body, headers=_HEADERS, content_type=kind)
