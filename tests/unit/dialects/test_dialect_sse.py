"""Server-sent events: cut, read and written whatever their framing (case S11)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_dialects import sse
from cortex_dialects.sse import EventReader, EventSplitter, ServerSentEvent

LINE_ENDS = ("\n", "\r\n", "\r")
TEXTS = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[list[ServerSentEvent], bytes, list[bytes]]:
    """Events, their bytes under any mix of line ends, and those bytes cut anywhere."""
    events, text = [], ""
    for _ in range(draw(st.integers(0, 5))):
        lines = draw(st.lists(TEXTS, min_size=1, max_size=3))
        name = draw(st.none() | TEXTS.filter(bool))
        end = draw(st.sampled_from(LINE_ENDS))
        # An LF right after a CR would be the same line end, not a blank line.
        blank = draw(st.sampled_from(LINE_ENDS if end != "\r" else ("\r", "\r\n")))
        text += f"event: {name}{end}" if name is not None else ""
        text += "".join(f"data: {line}{end}" for line in lines) + blank
        events.append(ServerSentEvent(event=name, data="\n".join(lines)))
    raw = text.encode()
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    bounds = [0, *cuts, len(raw)]
    return events, raw, [raw[start:end] for start, end in itertools.pairwise(bounds)]


@given(cut_streams())
def test_the_reader_gives_the_same_events_wherever_the_bytes_are_cut(stream):
    """Chunk boundaries may lie inside a line end, a field name or a UTF-8 sequence."""
    events, _, chunks = stream
    reader = EventReader()
    assert [event for chunk in chunks for event in reader.feed(chunk)] == events
    assert reader.rest() == b""


@given(cut_streams())
def test_the_splitter_gives_back_every_byte_and_stops_only_between_events(stream):
    """Something may be put between any two outputs without breaking an event."""
    events, raw, chunks = stream
    splitter = EventSplitter()
    outputs = [splitter.feed(chunk) for chunk in chunks]
    assert b"".join(outputs) + splitter.rest() == raw
    assert splitter.rest() == b""
    with_comments = b"".join(output + sse.comment("between") for output in outputs)
    assert [event for event in EventReader().feed(with_comments) if event.comment is None] == events


@given(st.binary(max_size=60), st.integers(0, 60))
def test_any_bytes_at_all_pass_the_splitter_unchanged(raw, cut):
    """The gateway's pass-through never alters or loses what an engine sent."""
    splitter = EventSplitter()
    assert splitter.feed(raw[:cut]) + splitter.feed(raw[cut:]) + splitter.rest() == raw
    EventReader().feed(raw)


def test_an_unfinished_event_is_held_back_until_it_is_whole():
    """A client never sees half an event followed by something else."""
    splitter = EventSplitter()
    assert splitter.feed(b"data: one\n\ndata: tw") == b"data: one\n\n"
    assert splitter.rest() == b"data: tw"
    assert splitter.feed(b"o\n") == b""
    assert splitter.feed(b"\n") == b"data: two\n\n"
    assert splitter.rest() == b""


def test_a_crlf_that_is_cut_in_two_leaves_nothing_over():
    """A stream that ended well has no rest, or the gateway would call it broken."""
    splitter = EventSplitter()
    assert splitter.feed(b"data: x\r\n\r") == b"data: x\r\n\r"
    assert splitter.feed(b"\n") == b"\n"
    assert splitter.rest() == b""


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"\xef\xbb\xbfdata: bom\n\n", ServerSentEvent(data="bom")),
        (b": hello\n\n", ServerSentEvent(comment="hello")),
        (b":\ndata: x\n\n", ServerSentEvent(data="x", comment="")),
        (b"data\n\n", ServerSentEvent(data="")),
        (b"data:no space\n\n", ServerSentEvent(data="no space")),
        (b"data:  two spaces\n\n", ServerSentEvent(data=" two spaces")),
        (b"data: a: b\n\n", ServerSentEvent(data="a: b")),
        (b"id: 7\nretry: 10\ndata: x\n\n", ServerSentEvent(data="x", id="7", retry="10")),
        ("data: line\u2028separator\u0085\n\n".encode(), ServerSentEvent(data="line\u2028separator\u0085")),
    ],
)
def test_the_reader_takes_what_the_standard_allows(raw, expected):
    """BOM, comments, missing spaces and colons, and Unicode line separators that are no line ends here."""
    assert EventReader().feed(raw) == [expected]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_written_is_read_back(text):
    """Text with line ends becomes several data lines, and a comment never becomes an event."""
    read = EventReader().feed(sse.event("name", text) + sse.comment(text) + sse.data(text))
    normal = text.replace("\r\n", "\n").replace("\r", "\n")
    assert read == [
        ServerSentEvent(event="name", data=normal),
        ServerSentEvent(comment=normal),
        ServerSentEvent(data=normal),
    ]
    assert sse.data(text.encode()) == sse.data(text)
