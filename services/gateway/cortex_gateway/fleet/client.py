"""The neuron's control API, asked over HTTP.

Owns: requests, deadlines, and reading answers into the shapes of cortex_contracts.wire.neuron. Does not own: when to
ask, what to believe, or inference (forwarding). Called by: poller, loading.

    NeuronUnreachable   no answer, not a whole one, or none in time
    NeuronRefused       an answer that says no, with its code and words
"""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ValidationError

from cortex_contracts.wire.neuron import (
    Discovery,
    EndpointAnswer,
    LoadRequest,
    ModelRow,
    PinRequest,
    Report,
    StateAnswer,
    StatusAnswer,
    UnloadLevel,
    UnloadRequest,
)

_Answer = TypeVar("_Answer", bound=BaseModel)
_COMMAND_TIMEOUT = aiohttp.ClientTimeout(total=60.0)  # a neuron may finish what is running before it answers


class NeuronUnreachable(Exception):
    """A neuron gave no usable answer; the message names it and says why."""


class NeuronRefused(Exception):
    """A neuron said no; `code` is that of its envelope."""

    def __init__(self, message: str, code: str, retry_after_s: int | None) -> None:
        super().__init__(message)
        self.message, self.code, self.retry_after_s = message, code, retry_after_s


class NeuronClient:
    """One session for the control requests to every neuron. `async with` closes it."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60))

    async def __aenter__(self) -> NeuronClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def discovery(self, url: str) -> Discovery:
        """GET /discovery"""
        return await self._ask("GET", f"{url}/discovery", Discovery)

    async def report(self, url: str) -> Report:
        """GET /report"""
        return await self._ask("GET", f"{url}/report", Report)

    async def model(self, url: str, model_id: str) -> ModelRow:
        """GET /models/{id}"""
        return await self._ask("GET", f"{url}/models/{quote(model_id)}", ModelRow)

    async def endpoint(self, url: str, model_id: str) -> str:
        """GET /models/{id}/endpoint: where a foreign engine is served."""
        answer = await self._ask("GET", f"{url}/models/{quote(model_id)}/endpoint", EndpointAnswer)
        return answer.url.rstrip("/")

    async def load(self, url: str, request: LoadRequest) -> StatusAnswer:
        """POST /models/load; the answer comes before the model is loaded."""
        return await self._ask("POST", f"{url}/models/load", StatusAnswer, request, _COMMAND_TIMEOUT)

    async def unload(
        self,
        url: str,
        model_id: str,
        if_idle: bool = False,
        level: UnloadLevel | None = None,
        newcomer: str | None = None,
    ) -> StatusAnswer:
        """POST /models/unload; with `if_idle` refused (model_busy) where it is in use."""
        return await self._ask(
            "POST",
            f"{url}/models/unload",
            StatusAnswer,
            UnloadRequest(model_id=model_id, if_idle=if_idle, level=level, newcomer=newcomer),
            _COMMAND_TIMEOUT,
        )

    async def pin(self, url: str, model_id: str, pinned: bool) -> StatusAnswer:
        """POST /models/pin"""
        wanted = PinRequest(model_id=model_id, pinned=pinned)
        return await self._ask("POST", f"{url}/models/pin", StatusAnswer, wanted)

    async def drain(self, url: str) -> StateAnswer:
        """POST /drain"""
        return await self._ask("POST", f"{url}/drain", StateAnswer)

    async def undrain(self, url: str) -> StateAnswer:
        """POST /undrain"""
        return await self._ask("POST", f"{url}/undrain", StateAnswer)

    async def _ask(
        self,
        method: str,
        url: str,
        shape: type[_Answer],
        body: BaseModel | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> _Answer:
        data = body.model_dump_json(exclude_none=True) if body is not None else None
        headers = {"content-type": "application/json"} if body is not None else None
        limit = timeout or self._timeout
        try:
            async with self._session.request(method, url, data=data, headers=headers, timeout=limit) as response:
                text = await response.read()
                if response.status >= 400:
                    raise _refusal(url, response.status, response.headers.get("retry-after"), text)
                return shape.model_validate_json(text)
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            reason = str(failure) or f"no answer in {limit.total:g} s"
            raise NeuronUnreachable(f"{method} {url}: {reason}") from failure
        except ValidationError as failure:
            message = f"{method} {url}: not the answer of a neuron: {failure.errors()[0]['msg']}"
            raise NeuronUnreachable(message) from failure


def _refusal(url: str, status: int, retry_after: str | None, body: bytes) -> NeuronRefused:
    try:
        error = _ErrorBody.model_validate_json(body).error
    except ValidationError:
        error = _ErrorDetail(message=f"{url} answered {status}")
    return NeuronRefused(error.message, error.code, int(retry_after) if retry_after and retry_after.isdigit() else None)


class _ErrorDetail(BaseModel):
    message: str
    code: str = ""


class _ErrorBody(BaseModel):
    error: _ErrorDetail
