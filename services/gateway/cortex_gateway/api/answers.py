"""A wire shape as an HTTP answer. Called by: every handler of this package that answers itself."""

from __future__ import annotations

from http import HTTPStatus

from pydantic import BaseModel
from sanic import HTTPResponse


def json_answer(shape: BaseModel, status: HTTPStatus = HTTPStatus.OK) -> HTTPResponse:
    """The shape as JSON."""
    return HTTPResponse(shape.model_dump_json(), status, content_type="application/json")
