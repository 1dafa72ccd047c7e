"""A Sanic application set up the way both services need it, and errors turned into HTTP in one place.

Owns: limits, the request id, and the mapping exception -> envelope in the dialect of the path (case W7).
Does not own: routes. Called by: the api package of each service.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, cast

from sanic import HTTPResponse, Request, Sanic
from sanic import exceptions as sanic_errors
from sanic.config import Config

from cortex_contracts.wire import errors
from cortex_dialects.dialect import Dialect, dialect_of, error_body
from cortex_serving import logs

App = Sanic[Config, SimpleNamespace]

_BODY_READ_TIMEOUT_S = 120
_NO_RESPONSE_TIMEOUT_S = 7 * 24 * 3600  # an answer may take as long as it takes (case S2)
_MOST_DROPPED_BYTES = 256 * 1024 * 1024
_DROPPING_S = 10.0
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}\Z", re.ASCII)
_OF_AN_ANSWER = "NONE"  # the method that Sanic gives to the request it makes for an answer
_serial = itertools.count(1)


class AnyRequest(Request):
    """Sanic's, which can be made of a URL that is none: Sanic makes one a second time to answer that it is bad."""

    def __init__(self, *, url_bytes: bytes, method: str, **more: Any) -> None:
        try:
            super().__init__(url_bytes=url_bytes, method=method, **more)
        except sanic_errors.BadURL:
            if method != _OF_AN_ANSWER:
                raise
            super().__init__(url_bytes=b"*", method=method, **more)


Answer = Callable[[Request, BaseException], Awaitable[HTTPResponse]]


def build(name: str, body_limit_mb: int, answer: Answer | None = None) -> App:
    """A Sanic app without routes. `name` may be used more than once in a process.

    `answer` takes the place of answer_exception for whatever a handler, or Sanic before one, raises. A request that its
    client breaks off is one of these: a CancelledError, and nobody there to be answered.
    """
    number = next(_serial)
    config = Config(env_prefix="")
    config.update(
        REQUEST_MAX_SIZE=body_limit_mb * 1024 * 1024,
        REQUEST_TIMEOUT=_BODY_READ_TIMEOUT_S,
        RESPONSE_TIMEOUT=_NO_RESPONSE_TIMEOUT_S,
        KEEP_ALIVE_TIMEOUT=120,
        ACCESS_LOG=False,
        MOTD=False,
        TOUCHUP=number == 1,  # it rewrites Sanic's classes in place: once is enough, twice fails
    )
    app = Sanic(f"{name}-{number}", config=config, configure_logging=False, request_class=AnyRequest)
    for kind in (Exception, sanic_errors.RequestCancelled):
        app.error_handler.add(kind, partial(_answer_whole, answer or answer_exception))
    app.on_request(_listen_on)
    app.on_response(_name)
    return app


async def _listen_on(request: Request) -> None:
    """Sanic stops reading while much of a body waits, and would then not notice that the client leaves (case S8)."""
    transport = cast("asyncio.Transport | None", request.transport)
    if transport is not None and not transport.is_closing():
        transport.resume_reading()


async def _name(request: Request, response: HTTPResponse) -> None:
    """Every answer has the request's id; Anthropic's SDK looks for it under another name."""
    response.headers["x-request-id"] = request_id(request)
    if dialect(request) is Dialect.ANTHROPIC:
        response.headers["request-id"] = request_id(request)


def dialect(request: Request) -> Dialect:
    """The dialect that a request is answered in."""
    return dialect_of(request.path, request.headers)


def request_id(request: Request) -> str:
    """The caller's X-Request-Id where it is a sane one, else a new one; the same for the whole request."""
    known: str | None = getattr(request.ctx, "request_id", None)
    if known is None:
        given = request.headers.get("x-request-id", "")
        known = given if _REQUEST_ID.match(given) else f"req_{secrets.token_hex(16)}"
        request.ctx.request_id = known
    return known


async def _answer_whole(answer: Answer, request: Request, exception: BaseException) -> HTTPResponse:
    """Whoever answers, a client that sends too much is let finish first."""
    if isinstance(exception, sanic_errors.PayloadTooLarge):
        await _drop_the_rest(request)
    return await answer(request, exception)


async def answer_exception(request: Request, exception: BaseException) -> HTTPResponse:
    """Any exception of a handler, or of Sanic before one, as the dialect's own envelope."""
    failure = as_cortex_error(request, exception)
    if failure.status == HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(exception, errors.CortexError):
        logs.error("internal_error", exception=exception, request_id=request_id(request), path=request.path)
    return answer_error(request, failure, dict(getattr(exception, "headers", None) or {}))


async def _drop_the_rest(request: Request) -> None:
    """Read what is left of a body that is too large, within bounds, and keep none of it: a client that still sends when
    its connection is closed sees a reset and not the answer."""
    stream: Any = request.stream  # Sanic's Http: its own base class names none of what it has
    if stream is None:
        return
    stream.request_max_size = request.app.config.REQUEST_MAX_SIZE + _MOST_DROPPED_BYTES
    with contextlib.suppress(TimeoutError, sanic_errors.SanicException):
        async with asyncio.timeout(_DROPPING_S):
            async for _ in stream:
                pass


def answer_error(request: Request, failure: errors.CortexError, headers: dict[str, str] | None = None) -> HTTPResponse:
    """An error as HTTP: envelope, status, Retry-After."""
    headers = dict(headers or {})
    if failure.retry_after_s is not None:
        headers["retry-after"] = str(failure.retry_after_s)
    body = error_body(dialect(request), failure)
    return HTTPResponse(body, status=failure.status, headers=headers, content_type="application/json")


def as_cortex_error(request: Request, exception: BaseException) -> errors.CortexError:
    """What the client is told of an exception; the inside of an unexpected one stays in the log."""
    if isinstance(exception, errors.CortexError):
        return exception
    if isinstance(exception, asyncio.CancelledError):
        return errors.InvalidRequest("the client left before its request was complete")
    if isinstance(exception, sanic_errors.NotFound):
        return errors.RouteNotFound(f"no route {_shown(request.method)} {request.path}{_why_not(request)}")
    if isinstance(exception, sanic_errors.MethodNotAllowed):
        return errors.MethodNotAllowed(f"{request.path} does not take {_shown(request.method)}")
    config = request.app.config
    if isinstance(exception, sanic_errors.PayloadTooLarge):
        if "header" not in str(exception):
            return errors.BodyTooLarge(f"the body is larger than {config.REQUEST_MAX_SIZE // (1024 * 1024)} MB")
        message = f"the request's header is larger than {config.REQUEST_MAX_HEADER_SIZE // 1024} KB"
        return _invalid(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)
    if isinstance(exception, sanic_errors.SanicException) and exception.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return _invalid(HTTPStatus(exception.status_code), str(exception))
    return errors.CortexError(f"internal error; the log has it under request id {request_id(request)}")


def _why_not(request: Request) -> str:
    """For who asks what another service of the same API would answer."""
    if dialect(request) is not Dialect.RESPONSES:
        return ""
    return (
        ": there is nothing below /v1/responses, for no responses are kept here; an answer is there once, for who asked"
    )


def _shown(text: str) -> str:
    """What came over the wire, as what can be sent back: a byte that was no UTF-8 is shown by its number."""
    return text.encode(errors="backslashreplace").decode()


def _invalid(status: HTTPStatus, message: str) -> errors.CortexError:
    failure = errors.InvalidRequest(_shown(message) or status.phrase)
    failure.status = status
    return failure
