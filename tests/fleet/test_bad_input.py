"""Bad input of every kind gets a clear error in the right envelope, through the whole path (cases W7, W9, S10)."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import aiohttp
import pytest
from fleet_of_one import FleetOfOne

CHAT, TEXT, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
HELLO = [{"role": "user", "content": "Say hello."}]


def chat(**extra: Any) -> bytes:
    return json.dumps({"model": "smollm2", "messages": HELLO, "max_tokens": 4, **extra}).encode()


BAD = [
    pytest.param(CHAT, b"{", 400, "invalid_json", id="cut JSON"),
    pytest.param(CHAT, b"", 400, "invalid_json", id="empty body"),
    pytest.param(CHAT, b"\xff\xfe", 400, "invalid_json", id="not UTF-8"),
    pytest.param(CHAT, b"[1]", 400, "invalid_parameter", id="not an object"),
    pytest.param(CHAT, b"[" * 100_000, 400, None, id="nested without end"),
    pytest.param(CHAT, b"{}", 400, "invalid_parameter", id="no model"),
    pytest.param(CHAT, chat(model=7), 400, "invalid_parameter", id="model of a wrong type"),
    pytest.param(CHAT, chat(model="nobody"), 404, "model_not_found", id="unknown model"),
    pytest.param(CHAT, chat(stream="yes"), 400, "invalid_parameter", id="stream of a wrong type"),
    pytest.param(CHAT, chat(messages="hi"), 400, "invalid_parameter", id="messages of a wrong type"),
    pytest.param(CHAT, chat(messages=[]), 400, "invalid_parameter", id="no messages"),
    pytest.param(CHAT, chat(temperature=-1), 400, "invalid_parameter", id="temperature out of range"),
    pytest.param(CHAT, chat(temprature=1), 400, "unsupported_parameter", id="misspelt parameter"),
    pytest.param(CHAT, chat(audio={"voice": "x"}), 400, "unsupported_parameter", id="unsupported parameter"),
    pytest.param(CHAT, chat(max_tokens=0), 400, "invalid_parameter", id="no tokens asked for"),
    pytest.param(CHAT, chat(max_tokens=10**30), 400, None, id="a number beyond any context"),
    pytest.param(CHAT, chat(stop=["a"] * 99), 400, "invalid_parameter", id="too many stops"),
    pytest.param(
        CHAT,
        chat(messages=[{"role": "user", "content": "word " * 9000}]),
        400,
        "context_length_exceeded",
        id="too long",
    ),
    pytest.param(
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]),
        400,
        "images_not_supported",
        id="an image for a text model",
    ),
    pytest.param(TEXT, b'{"model":"smollm2"}', 400, "invalid_parameter", id="no prompt"),
    pytest.param(TEXT, b'{"model":"smollm2","prompt":[99999999]}', 400, "invalid_parameter", id="no such token"),
    pytest.param(TEXT, b'{"model":"smollm2","prompt":""}', 400, None, id="empty prompt"),
    pytest.param(MESSAGES, b"{", 400, "invalid_json", id="messages: cut JSON"),
    pytest.param(
        MESSAGES, b'{"model":"smollm2","messages":[]}', 400, "invalid_parameter", id="messages: no max_tokens"
    ),
    pytest.param(MESSAGES, chat(model="nobody"), 404, "model_not_found", id="messages: unknown model"),
    pytest.param(MESSAGES, chat(frequency=1), 400, "unsupported_parameter", id="messages: unknown parameter"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body", "status", "code"), BAD)
async def test_bad_input_is_an_envelope_with_a_code(
    fleet: FleetOfOne, path: str, body: bytes, status: int, code: str | None, stream: bool
) -> None:
    """A status, a code and a message in the dialect's envelope; the same when a stream was asked for (case S10)."""
    if stream:
        body = body.replace(b'{"model": ', b'{"stream": true, "model": ', 1)
    headers = {"content-type": "application/json"}
    async with aiohttp.request("POST", fleet.url + path, data=body, headers=headers) as answer:
        envelope = await answer.json()
    assert answer.status == status, envelope
    assert envelope["error"]["message"]
    assert code in (None, envelope["error"]["code"])
    assert (envelope.get("type") == "error") == (path == MESSAGES)


async def test_the_misspelt_parameter_is_named_with_a_suggestion(fleet: FleetOfOne) -> None:
    """The message helps: it names the parameter and the one that was meant."""
    async with aiohttp.request(
        "POST", fleet.url + CHAT, data=chat(temprature=1), headers={"content-type": "application/json"}
    ) as answer:
        error = (await answer.json())["error"]
    assert error["param"] == "temprature"
    assert "temperature" in error["message"]


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_a_body_over_the_limit_is_413(fleet: FleetOfOne, path: str) -> None:
    """20 MB where 16 MB is the limit (case W12)."""
    headers = {"content-type": "application/json"}
    status, code = await _refusal(fleet.url + path, chat(user="x" * (20 << 20)), headers)
    assert (status, code) == (413, "body_too_large")


async def _refusal(url: str, content: bytes, headers: dict[str, str]) -> tuple[int, str]:
    """What a body is refused with. A refusal ends the connection while the client may still be sending, and a reset can
    then overtake the answer (RFC 9112, 9.6): asked again, the client reads it."""
    for _ in range(5):
        with contextlib.suppress(aiohttp.ClientOSError):
            async with aiohttp.request("POST", url, data=io.BytesIO(content), headers=headers) as answer:
                return answer.status, (await answer.json())["error"]["code"]
    raise AssertionError("every answer was lost")


async def test_a_body_of_10_mb_passes(fleet: FleetOfOne) -> None:
    """10 MB under the limit reaches the model (case W12)."""
    headers = {"content-type": "application/json"}
    body = io.BytesIO(chat(user="x" * (10 << 20)))
    async with aiohttp.request("POST", fleet.url + CHAT, data=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405),
        ("DELETE", MESSAGES, 405),
        ("GET", "/v1/nothing", 404),
        ("POST", "/", 404),
        ("GET", "/v1/models/nobody", 404),
        ("GET", "/v1/messages/nothing", 404),
    ],
)
async def test_wrong_routes_and_methods_are_envelopes(fleet: FleetOfOne, method: str, path: str, status: int) -> None:
    """404 and 405 speak the dialect too."""
    async with aiohttp.request(method, fleet.url + path) as answer:
        envelope = await answer.json()
    assert answer.status == status
    assert envelope["error"]["message"]
    assert (envelope.get("type") == "error") == path.startswith(MESSAGES)


async def test_a_body_that_is_not_json_is_415(fleet: FleetOfOne) -> None:
    """A form is refused by its type, with a hint at the header."""
    async with aiohttp.request("POST", fleet.url + CHAT, data={"model": "smollm2"}) as answer:
        envelope = await answer.json()
    assert answer.status == 415
    assert "application/json" in envelope["error"]["message"]
