"""A stream of events as it passes by: what goes on to the client, and what it tells us on its way.

Owns: seeing the first content (case M1), the usage comment, the end and an error event, for little on each chunk: once
there was content, only events with a telling word in them are looked at. Pure. Called by: stream.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import msgspec

from cortex_dialects.dialect import Dialect
from cortex_dialects.sse import EventSplitter, last_boundary

# Possessive, so that the two halves of one CRLF are never taken for two line ends.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)+")
_USAGE = re.compile(rb"\A[\r\n]*: ?cortex-usage (\{[^\r\n]*\})")
_DATA = re.compile(rb"(?:\A|[\r\n])data: ?([^\r\n]*)")
_NAME = re.compile(rb"(?:\A|[\r\n])event: ?([\w.]+)")
_NUMBER = re.compile(rb'"sequence_number": ?(\d+)')  # the last field of a response's events
_TELLING = {
    Dialect.OPENAI: (b"cortex-usage", b"[DONE]", b'"error"'),
    Dialect.ANTHROPIC: (b"cortex-usage", b"message_stop", b"error"),
    # Only the events of its beginning and its end have the response in them; in a text the quotes are escaped.
    Dialect.RESPONSES: (b"cortex-usage", b'"response":{', b"event: error"),
}
_LONGEST_NUMBER = 40  # bytes, with the name before it
# Events that end a stream well, in dialects whose events have names.
_ENDS = {
    Dialect.ANTHROPIC: frozenset({"message_stop"}),
    Dialect.RESPONSES: frozenset({"response.completed", "response.incomplete"}),
}
_CONTENT_FIELDS = ("content", "reasoning_content", "reasoning", "tool_calls")


class Ending(StrEnum):
    """How far a stream has come. Transitions: OPEN to either other, once."""

    OPEN = "open"
    COMPLETE = "complete"
    FAILED = "failed"


class StreamWatch:
    """One stream. `drop_start` leaves out the neuron's message_start where the gateway has already sent one."""

    def __init__(self, dialect: Dialect, drop_start: bool = False) -> None:
        self.ending = Ending.OPEN
        self.content_seen = False
        self.usage: bytes | None = None
        self.error_code = ""
        self._dialect = dialect
        self._ends = _ENDS.get(dialect)
        self._last = b""  # what went on, from the last event's number on
        self._drop_start = drop_start
        self._telling = self._one, self._two, self._three = _TELLING[dialect]
        self._splitter = EventSplitter()

    def feed(self, chunk: bytes) -> bytes:
        """What of the stream so far, and not yet given, goes to the client: whole events only."""
        whole = self._splitter.feed(chunk)
        if self.content_seen and not (self._one in whole or self._two in whole or self._three in whole):
            data = whole if self.ending is Ending.OPEN else b""
        else:
            data = b"".join(self._passing(whole))
        if self._dialect is Dialect.RESPONSES and (at := data.rfind(b'"sequence_number":')) >= 0:
            self._last = data[at : at + _LONGEST_NUMBER]
        return data

    @property
    def next_number(self) -> int:
        """Of the event that follows what went on, in a stream whose events have numbers."""
        last = _NUMBER.match(self._last)
        return int(last[1]) + 1 if last is not None else 0

    def finish(self) -> bytes:
        """What is left when the stream ends: a last [DONE] without its blank line counts, half an event does not."""
        return self.feed(b"\n\n") if self._splitter.rest().strip() == b"data: [DONE]" else b""

    def _passing(self, whole: bytes) -> Iterator[bytes]:
        """The parts of a block of whole events that go on: stretches without a telling word, and single events.

        After the stream's last event nothing goes on, not even a [DONE] (case S6).
        """
        start, end = 0, len(whole)
        spots = dict.fromkeys(self._telling, -1)  # where each word comes next
        while start < end and self.ending is Ending.OPEN:
            if self.content_seen:
                for word, spot in spots.items():
                    if spot < start:
                        spots[word] = end if (found := whole.find(word, start)) < 0 else found
                nearest = min(spots.values())
                stretch = end if nearest == end else last_boundary(whole, start, nearest, default=start)
                if stretch > start:
                    yield whole[start:stretch]
                    start = stretch
                    continue
            blank = _BLANK_LINE.search(whole, start)
            stop = blank.end() if blank is not None else end
            if self._passes(event := whole[start:stop]):
                yield event
            start = stop

    def _passes(self, event: bytes) -> bool:
        """Look at one event of an open stream; whether it goes on."""
        if (usage := _USAGE.search(event)) is not None:
            self.usage = usage[1]
            return False
        data = b"\n".join(_DATA.findall(event))
        if not data:
            return True
        if data == b"[DONE]":
            self.ending = Ending.COMPLETE
            return True
        name = _NAME.search(event)
        return self._see(name[1].decode() if name else "", data)

    def _see(self, name: str, data: bytes) -> bool:
        body = _decode(data)
        kind = name or body.get("type")
        error = body.get("error")
        if error if self._ends is None else kind == "error":
            self.ending = Ending.FAILED
            self.error_code = _code(error)
        elif self._ends is not None and kind in self._ends:
            self.ending = Ending.COMPLETE
        elif self._dialect is Dialect.ANTHROPIC and kind == "message_start":
            return not self._drop_start
        elif not self.content_seen:
            self.content_seen = _IS_CONTENT[self._dialect](kind, body)
        return True


def _decode(data: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _code(error: object) -> str:
    if not isinstance(error, dict):
        return "upstream_error"
    return str(error.get("code") or error.get("type") or "upstream_error")


def _is_openai_content(_kind: object, body: dict[str, Any]) -> bool:
    """Text, reasoning or a tool call; not the role alone, nor usage."""
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        delta = choice.get("delta")
        if choice.get("text") or (isinstance(delta, dict) and any(delta.get(field) for field in _CONTENT_FIELDS)):
            return True
    return False


def _is_anthropic_content(kind: object, body: dict[str, Any]) -> bool:
    block = body.get("content_block")
    opens_tool = kind == "content_block_start" and isinstance(block, dict) and block.get("type") == "tool_use"
    return opens_tool or kind == "content_block_delta"


def _is_response_content(kind: object, body: dict[str, Any]) -> bool:
    item = body.get("item")
    begins_call = isinstance(item, dict) and item.get("type") == "function_call"
    return begins_call or (isinstance(kind, str) and kind.endswith(".delta"))


_IS_CONTENT: dict[Dialect, Callable[[object, dict[str, Any]], bool]] = {
    Dialect.OPENAI: _is_openai_content,
    Dialect.ANTHROPIC: _is_anthropic_content,
    Dialect.RESPONSES: _is_response_content,
}
