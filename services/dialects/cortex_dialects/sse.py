"""Server-sent events as bytes: writing them, passing them on whole, and reading them.

Owns: the framing of text/event-stream as WHATWG's HTML standard defines it (case S11). Does not own: what is inside
an event. Called by: projectors (write), the gateway's pass-through (EventSplitter), translate.py (EventReader).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cortex_contracts.wire.errors import UpstreamBroken

_NEWLINE = re.compile(r"\r\n|\r|\n")
# How a blank line may end a buffer: two line ends in a row, where each may be LF, CRLF or CR.
_BLANK_LINES = (b"\n\n", b"\n\r\n", b"\n\r", b"\r\r\n", b"\r\r")
_LONGEST_BLANK_LINE = 3
_BOM = "\ufeff"
LONGEST_EVENT_BYTES = 16 * 1024 * 1024


def comment(text: str) -> bytes:
    """An event that readers skip."""
    return _field("", text) + b"\n"


def data(payload: str | bytes) -> bytes:
    """An unnamed event."""
    if isinstance(payload, str):
        return _field("data", payload) + b"\n"
    return b"data: " + payload + b"\n\n" if b"\n" not in payload and b"\r" not in payload else data(payload.decode())


def event(name: str, payload: str | bytes) -> bytes:
    """A named event."""
    return f"event: {name}\n".encode() + data(payload)


def _field(name: str, text: str) -> bytes:
    return "".join(f"{name}: {line}\n" for line in _NEWLINE.split(text)).encode()


def last_boundary(stream: bytes | bytearray, start: int, stop: int, default: int) -> int:
    """Where the last blank line in stream[start:stop] ends; `default` where there is none."""
    found = ((stream.rfind(line, start, stop), len(line)) for line in _BLANK_LINES)
    return max((at + length for at, length in found if at >= 0), default=default)


class EventSplitter:
    """Cuts a byte stream between events, so that something may be put in between; changes no byte.

    Raises UpstreamBroken at an event that is longer than any can be: memory has an end.
    """

    def __init__(self) -> None:
        self._tail = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """The events that are whole now. All outputs and `rest` together are all input."""
        if not self._tail:
            if chunk.endswith(b"\n\n"):
                return chunk
            # Between two events a line end is one more blank line, such as the LF of a CRLF that was cut in two.
            blank = len(chunk) - len(chunk.lstrip(b"\r\n"))
        else:
            blank = 0
        seen = max(0, len(self._tail) - _LONGEST_BLANK_LINE)
        self._tail += chunk
        end = last_boundary(self._tail, seen, len(self._tail), default=blank)
        whole = bytes(self._tail[:end])
        del self._tail[:end]
        if len(self._tail) > LONGEST_EVENT_BYTES:
            self._tail.clear()
            raise UpstreamBroken(f"An event of the stream is longer than {LONGEST_EVENT_BYTES} bytes")
        return whole

    def rest(self) -> bytes:
        """What came after the last whole event: empty when the stream ended well."""
        return bytes(self._tail)


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event, or a comment between two. A field that was not sent is None."""

    event: str | None = None
    data: str | None = None
    comment: str | None = None
    id: str | None = None
    retry: str | None = None


class EventReader:
    """Reads a byte stream into events; a chunk may end anywhere. An unfinished last event is not reported."""

    def __init__(self) -> None:
        self._splitter = EventSplitter()
        self._begun = False

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that are whole now."""
        text = self._splitter.feed(chunk).decode(errors="replace")
        if text and not self._begun:
            text, self._begun = text.removeprefix(_BOM), True
        blocks = _NEWLINE.sub("\n", text).split("\n\n")
        return [event for block in blocks if (event := _read_block(block)) is not None]

    def rest(self) -> bytes:
        """What came after the last whole event: empty when the stream ended well."""
        return self._splitter.rest()


def _read_block(block: str) -> ServerSentEvent | None:
    lines: dict[str, list[str]] = {}
    for line in filter(None, block.split("\n")):
        name, _, value = line.partition(":")
        lines.setdefault(name, []).append(value.removeprefix(" "))
    if not lines:
        return None
    return ServerSentEvent(
        event=_last(lines, "event"),
        data=_joined(lines, "data"),
        comment=_joined(lines, ""),
        id=_last(lines, "id"),
        retry=_last(lines, "retry"),
    )


def _last(lines: dict[str, list[str]], name: str) -> str | None:
    return lines[name][-1] if name in lines else None


def _joined(lines: dict[str, list[str]], name: str) -> str | None:
    return "\n".join(lines[name]) if name in lines else None
