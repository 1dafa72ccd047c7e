"""A wire shape as an HTTP answer. Called by: every handler of this package that answers itself."""

from __future__ import annotations

from pydantic import BaseModel
from sanic import HTTPResponse


def json_answer(shape: BaseModel) -> HTTPResponse:
    """200 with the shape as JSON."""
    return HTTPResponse(shape.model_dump_json(), content_type="application/json")
