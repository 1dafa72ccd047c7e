"""A chunk of which only one text changes: encoded once a request, so that a token costs one string's encoding.

Called by: projectors, on the path of every token.
"""

from __future__ import annotations

from json import JSONEncoder

from pydantic import BaseModel

# Stands for the text while the frame is built. The last one in the frame is meant, and no client's text follows it.
MARK = "\x00text\x00"
_encode = JSONEncoder(ensure_ascii=False).encode
_MARK_JSON = JSONEncoder().encode(MARK)
_NUMBER_JSON = '"sequence_number":0}'


class Frame:
    """The JSON of `shape` as an SSE event, with the text that goes where MARK is."""

    __slots__ = ("_after", "_before")

    def __init__(self, shape: BaseModel, event: str | None = None) -> None:
        before, mark, after = shape.model_dump_json().rpartition(_MARK_JSON)
        assert mark, "the shape holds MARK"
        name = f"event: {event}\n" if event else ""
        self._before, self._after = f"{name}data: {before}", f"{after}\n\n"

    def holding(self, text: str) -> bytes:
        return f"{self._before}{_encode(text)}{self._after}".encode(errors="replace")


class NumberedFrame:
    """The same for events that end in their number, which changes as well."""

    __slots__ = ("_after", "_before")

    def __init__(self, shape: BaseModel, event: str) -> None:
        before, mark, after = shape.model_dump_json().rpartition(_MARK_JSON)
        assert mark, "the shape holds MARK"
        assert after.endswith(_NUMBER_JSON), "its last field is sequence_number, and is 0"
        self._before, self._after = f"event: {event}\ndata: {before}", after[: -len("0}")]

    def holding(self, text: str, number: int) -> bytes:
        return f"{self._before}{_encode(text)}{self._after}{number}}}\n\n".encode(errors="replace")
