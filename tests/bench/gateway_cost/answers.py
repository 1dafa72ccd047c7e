"""Whether a gateway's answers are right, before it is timed: the text and usage unchanged, every chunk there and passed
on as it comes, a client's hang-up reaching the engine.

Owns: the questions and what a right answer is. Called by: __main__.py, timing.py (the questions).
"""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass, field
from typing import Any

from tests.bench.gateway_cost.gateways import Gateway, Mock

PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
_LINE = 'The quick brown fox jumps over the lazy dog; line {} of the file, with a "quote" and a\ttab.\n'
_CHUNKS, _INTERVAL_US = 120, 10_000
_HANG_UP_S = 3.0
_TIMEOUT_S = 20


def question(api: str, stream: bool = False, prompt: int = 0, model: str = "mock-model") -> bytes:
    """A body whose user text has at least `prompt` bytes."""
    text = "Say in one sentence what a gateway does."
    if prompt:
        lines = (_LINE.format(number) for number in range(prompt // len(_LINE) + 1))
        text = "\n".join([text, "".join(lines)])
    user = {"role": "user", "content": text}
    body: dict[str, Any] = {"model": model, "max_tokens": 256, "temperature": 0.7}
    if api == "openai":
        body["messages"] = [{"role": "system", "content": "You are terse."}, user]
        body |= {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    else:
        body |= {"system": "You are terse.", "messages": [user], **({"stream": True} if stream else {})}
    return json.dumps(body).encode()


@dataclass
class Answer:
    """What came back, and when: seconds from the question to the first piece and to the end, and how many pieces."""

    status: int
    body: bytes = b""
    first_s: float = 0.0
    total_s: float = 0.0
    num_pieces: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False


def ask(gateway: Gateway, api: str, body: bytes, leave_after: int | None = None) -> Answer:
    """The answer; of a stream only the first `leave_after` bytes, where given: then the client hangs up."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=_TIMEOUT_S)
    try:
        asked = time.monotonic()
        connection.request("POST", PATHS[api], body, {**gateway.headers, "Content-Type": "application/json"})
        response = connection.getresponse()
        answer = Answer(response.status)
        while piece := response.read1():
            answer.first_s = answer.first_s or time.monotonic() - asked
            answer.num_pieces += 1
            answer.body += piece
            if leave_after is not None and len(answer.body) > leave_after:
                break
        answer.total_s = time.monotonic() - asked
    finally:
        connection.close()
    payloads = [line[5:].strip() for line in answer.body.splitlines() if line.startswith(b"data:")]
    answer.done = b"[DONE]" in payloads
    answer.events = [json.loads(payload) for payload in payloads if payload.startswith(b"{") and leave_after is None]
    return answer


def check(gateway: Gateway, mock: Mock) -> dict[str, bool]:
    """Each promise and whether it is kept."""
    mock.set(_CHUNKS, _INTERVAL_US)
    kept = _openai(gateway) | {"hang_up_reaches_engine": _hang_up(gateway, mock)}
    mock.set(_CHUNKS, _INTERVAL_US)
    if gateway.spec.anthropic:
        kept |= _anthropic(gateway, "mock-model", "messages")
    if gateway.spec.translates:
        before = mock.stats()
        kept |= _anthropic(gateway, "mock-translated", "translated")
        after = mock.stats()
        kept["translated_engine_saw_openai"] = (
            after["openai"] == before["openai"] + 2 and after["anthropic"] == before["anthropic"]
        )
    return kept


def _openai(gateway: Gateway) -> dict[str, bool]:
    whole = ask(gateway, "openai", question("openai"))
    document = json.loads(whole.body) if whole.status == 200 else {}
    stream = ask(gateway, "openai", question("openai", stream=True))
    choices = [choice for event in stream.events for choice in event.get("choices", [])]
    return {
        "chat": whole.status == 200,
        "chat_text": str(document).find("A gateway accepts") > 0,
        "chat_usage": document.get("usage", {}).get("total_tokens") == 85,
        "chat_unknown_fields_kept": "prompt_logprobs" in document,
        "stream": stream.status == 200 and stream.done,
        "stream_incremental": stream.num_pieces >= _CHUNKS // 2 and stream.first_s < stream.total_s / 2,
        "stream_chunks": sum(bool(choice.get("delta", {}).get("content")) for choice in choices) == _CHUNKS,
        "stream_finish": any(choice.get("finish_reason") == "stop" for choice in choices),
        "stream_usage": any((event.get("usage") or {}).get("total_tokens") == 170 for event in stream.events),
    }


def _anthropic(gateway: Gateway, model: str, name: str) -> dict[str, bool]:
    whole = ask(gateway, "anthropic", question("anthropic", model=model))
    document = json.loads(whole.body) if whole.status == 200 else {}
    stream = ask(gateway, "anthropic", question("anthropic", stream=True, model=model))
    kinds = [event.get("type") for event in stream.events]
    return {
        name: whole.status == 200,
        f"{name}_text": str(document).find("A gateway accepts") > 0,
        f"{name}_usage": document.get("usage", {}).get("output_tokens") == 43,
        f"{name}_stream": kinds[:1] == ["message_start"]
        and kinds[-1:] == ["message_stop"]
        and "message_delta" in kinds,
        f"{name}_stream_incremental": stream.num_pieces >= _CHUNKS // 2 and stream.first_s < stream.total_s / 2,
        f"{name}_stream_chunks": kinds.count("content_block_delta") == _CHUNKS,
    }


def _hang_up(gateway: Gateway, mock: Mock) -> bool:
    mock.set(chunks=200, delay_us=20_000)
    before = mock.stats()["aborted"]
    ask(gateway, "openai", question("openai", stream=True), leave_after=1500)
    deadline = time.monotonic() + _HANG_UP_S
    while mock.stats()["aborted"] == before and time.monotonic() < deadline:
        time.sleep(0.05)
    return mock.stats()["aborted"] > before
