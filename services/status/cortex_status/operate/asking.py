"""Requests to a gateway's operator API.

Owns: the session, deadlines, and what goes wrong in the operator's words. Does not own: which gateways there are
(targets.py). Called by: commands.py, loading.py, decisions.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError

from cortex_status.operate.failures import Failure, Refused, Unanswered, Unusable
from cortex_status.operate.targets import Target

_Shape = TypeVar("_Shape", bound=BaseModel)
_AUTHENTICATION = (401, 403)


class _ErrorDetail(BaseModel):
    message: str


class _ErrorBody(BaseModel):
    error: _ErrorDetail


class _NotReached(Unanswered):
    """It could not be connected to, so nothing has been asked of it: another may be."""


class Asking:
    """One session. `async with` closes it."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout_s))

    async def __aenter__(self) -> Asking:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def any_of(self, targets: Sequence[Target]) -> Target:
        """The first of them that can be connected to and lets us in. Raises Failure, with what is wrong with each."""
        problems: list[str] = []
        for target in targets:
            try:
                await self._request(target, "GET", "/fleet/decisions", {"limit": "1"}, None, self._timeout_s)
            except Unanswered as problem:
                problems.append(str(problem))
            else:
                return target
        raise Unanswered("\n".join(problems))

    async def get(
        self, target: Target, path: str, shape: type[_Shape], query: Mapping[str, str] | None = None
    ) -> _Shape:
        """The answer of a question. Raises Failure."""
        return _as(shape, target, await self._request(target, "GET", path, query, None, self._timeout_s))

    async def post(
        self,
        target: Target,
        path: str,
        shape: type[_Shape],
        body: BaseModel | None = None,
        query: Mapping[str, str] | None = None,
        patient: bool = False,
    ) -> _Shape:
        """The answer of a command, whenever that comes if `patient`. Raises Failure."""
        timeout_s = None if patient else max(self._timeout_s, _COMMAND_S)
        return _as(shape, target, await self._request(target, "POST", path, query, body, timeout_s))

    async def _request(
        self,
        target: Target,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: BaseModel | None,
        timeout_s: float | None,
    ) -> bytes:
        headers = {"authorization": f"Bearer {target.key}", "content-type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=self._timeout_s)
        data = body.model_dump_json(exclude_none=True) if body is not None else None
        try:
            async with self._session.request(
                method,
                target.url + path,
                params=query,
                data=data,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _unanswered(target, method, error, timeout_s or self._timeout_s) from error
        if answer.status == 200:
            return content
        raise _refusal(target, answer.status, content)


_COMMAND_S = 120.0  # a neuron that unloads lets running requests end first


def _as(shape: type[_Shape], target: Target, content: bytes) -> _Shape:
    try:
        return shape.model_validate_json(content)
    except ValidationError as invalid:
        raise Refused(
            f"{_named(target)}: not the answer of a gateway of this version: {invalid.errors()[0]['msg']}"
        ) from invalid


def _refusal(target: Target, status: int, content: bytes) -> Failure:
    try:
        words = _ErrorBody.model_validate_json(content).error.message
    except ValidationError:
        words = f"it answered with HTTP status {status}; is it a gateway of this version?"
    if status in _AUTHENTICATION:
        return Unusable(f"{_named(target)}: {words}\nthe key was that of {target.key_from}")
    return Refused(words)


def _unanswered(target: Target, method: str, error: Exception, timeout_s: float) -> Unanswered:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Unanswered(f"{_named(target)}: no connection within {timeout_s:g} s")
    if isinstance(error, TimeoutError):
        words = f"no answer within {timeout_s:g} s"
    elif isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        words = os.strerror(error.os_error.errno).lower()
        if isinstance(error.os_error, ConnectionRefusedError):
            words += "; is cortex-gateway running there?"
    else:
        words = str(error) or type(error).__name__
    done = "" if method == "GET" else "; what was asked of it may have been done"
    return Unanswered(f"{_named(target)}: {words}{done}")


def _named(target: Target) -> str:
    return f"gateway {target.url}" if target.name == target.url else f"gateway {target.name} ({target.url})"
