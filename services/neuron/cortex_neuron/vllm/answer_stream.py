"""A vLLM server's event stream as it passes by: what goes on to the client, and how it ends.

Owns: whole events only; that an error is the last event (vLLM sends [DONE] after one), that [DONE] follows a finished
answer alone, and that usage which only the neuron asked for stays here. Pure. Called by: api/passing_on.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from cortex_contracts.wire.errors import CortexError, UpstreamBroken
from cortex_dialects.sse import EventSplitter
from cortex_dialects.translate import chat_error_to_error
from cortex_neuron.vllm.usage import Tokens, tokens_of

_EVENT = re.compile(rb"(?>.*?(?>\r\n|\n|\r)(?>\r\n|\n|\r)+)", re.DOTALL)
_DATA = re.compile(rb"(?:\A|[\r\n])data: ?([^\r\n]*)")
_CONTENT = ("content", "reasoning_content", "reasoning", "tool_calls")
_END = b"[DONE]"


class AnswerStream:
    """One stream. `closing` is its last event as it came, once it has ended well; `failure` is why it has not."""

    def __init__(self, hides_usage: bool) -> None:
        self.closing = b""
        self.failure: CortexError | None = None
        self.content_seen = False
        self.tokens = Tokens()
        self.finish_reason: str | None = None
        self._hides_usage = hides_usage
        self._splitter = EventSplitter()

    @property
    def is_open(self) -> bool:
        """Whether more is to come."""
        return not self.closing and self.failure is None

    def feed(self, piece: bytes) -> bytes:
        """The events that are whole now and go on; b"" is the end of the stream. Without the closing one."""
        try:
            whole = self._splitter.feed(piece)
        except UpstreamBroken as broken:
            self.failure = broken
            return b""
        passing = b"".join(self._passing(whole))
        if not piece and self.is_open:
            self.failure = UpstreamBroken("vllm ended its stream before its [DONE]")
        return passing

    def _passing(self, whole: bytes) -> Iterator[bytes]:
        for found in _EVENT.finditer(whole):
            if not self.is_open:
                return
            event = found[0]
            if self._passes(b"\n".join(_DATA.findall(event)), event):
                yield event

    def _passes(self, data: bytes, event: bytes) -> bool:
        if data == _END:
            if self.finish_reason is None:
                self.failure = UpstreamBroken("vllm's stream was done before any answer was finished")
            else:
                self.closing = event
            return False
        if not data:
            return True
        body = _decode(data)
        if body is None or body.get("error") is not None:
            self.failure = _failure(body, data)
            return False
        return self._see(body)

    def _see(self, body: dict[str, Any]) -> bool:
        choices = body.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self.content_seen |= _has_content(choice)
                self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if body.get("usage"):
            self.tokens = tokens_of(body["usage"])
            return bool(choices) or not self._hides_usage
        return True


def _has_content(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    return bool(choice.get("text") or (isinstance(delta, dict) and any(map(delta.get, _CONTENT))))


def _decode(data: bytes) -> dict[str, Any] | None:
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _failure(body: dict[str, Any] | None, data: bytes) -> CortexError:
    if body is None:
        return UpstreamBroken(f"vllm sent what is no event of an answer: {data[:200]!r}")
    error = body["error"]
    status = error.get("code") if isinstance(error, dict) else None
    return chat_error_to_error(status if isinstance(status, int) else 502, data, None)
