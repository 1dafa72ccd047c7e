"""What is fuzzed: functions of any bytes that raise where a promise is broken.

Owns: the promises. Does not own: where the bytes come from (test_fuzz_targets.py: hypothesis; fuzz.py: atheris).
A stream's input begins with how it is cut: a count n, then n lengths that are taken in turn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import msgspec

from cortex_contracts.inventory.files import KeysFile
from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.errors import CortexError
from cortex_dialects.anthropic import messages_to_chat, parse_count_tokens, parse_messages
from cortex_dialects.dialect import Dialect
from cortex_dialects.embeddings import parse_embeddings
from cortex_dialects.events import Event, ReasoningDelta, TextDelta
from cortex_dialects.generation import Generation
from cortex_dialects.json_body import parse_object
from cortex_dialects.openai import parse_chat, parse_completion
from cortex_dialects.projectors import messages_projector, responses_projector
from cortex_dialects.rerank import parse_rerank
from cortex_dialects.responses import parse_responses, responses_to_chat
from cortex_dialects.sse import EventReader, EventSplitter, ServerSentEvent
from cortex_dialects.translate import ChatStreamReader, chat_document_to_events, chat_error_to_error
from cortex_gateway.admission.keys import Keys
from cortex_gateway.catalogue import Catalogue
from cortex_gateway.forwarding.call import passed_on, read_brief, with_model
from cortex_gateway.forwarding.watch import StreamWatch

_MOST_LENGTHS = 16
_CATALOGUE = Catalogue.of((Model(id="m", source="-", vram_mb=1),))
_KEYS = Keys.of(
    KeysFile.model_validate({"anonymous": "refuse", "keys": [{"name": "k", "sha256": "0" * 64}]}), _CATALOGUE
)


def pieces(data: bytes) -> Iterator[bytes]:
    """The stream in `data`, cut as its first bytes say; no piece is empty."""
    num_lengths = data[0] % _MOST_LENGTHS if data else 0
    lengths = data[1 : 1 + num_lengths] or b"\xff"
    at, turn = 1 + num_lengths, 0
    while at < len(data):
        length = lengths[turn % len(lengths)] + 1
        yield data[at : at + length]
        at, turn = at + length, turn + 1


def splitter(data: bytes) -> None:
    """No byte is lost, added or changed, and what is given ends between events."""
    stream, cut = b"".join(pieces(data)), EventSplitter()
    given = [cut.feed(piece) for piece in pieces(data)]
    assert b"".join(given) + cut.rest() == stream
    for whole in filter(None, given):
        assert whole.endswith((b"\n", b"\r"))
    assert _read(given) == _read([b"".join(given)])


def event_reader(data: bytes) -> None:
    """However it is cut, the same events."""
    assert _read(pieces(data)) == _read([b"".join(pieces(data))])


def _read(stream: Iterator[bytes] | list[bytes]) -> list[ServerSentEvent]:
    reader = EventReader()
    return [event for piece in stream for event in reader.feed(piece)]


def chat_stream(data: bytes) -> None:
    """However it is cut, the same events; they end in one that says how; and a projector takes them all."""
    found = _chat_events(pieces(data))
    assert repr(found) == repr(_chat_events([b"".join(pieces(data))]))
    asked = Generation(model="m", prompts=())
    for projector in (messages_projector(asked, "r", 0, prompt_tokens=0), responses_projector(asked, "r", 0)):
        b"".join(map(projector.event, found)) + projector.closing()


def _chat_events(stream: Iterator[bytes] | list[bytes]) -> list[Event]:
    reader = ChatStreamReader()
    return [event for piece in stream for event in reader.feed(piece)] + reader.end()


def watch_openai(data: bytes) -> None:
    """See `_watch`."""
    _watch(data, Dialect.OPENAI)


def watch_anthropic(data: bytes) -> None:
    """See `_watch`."""
    _watch(data, Dialect.ANTHROPIC)


def watch_responses(data: bytes) -> None:
    """See `_watch`."""
    _watch(data, Dialect.RESPONSES)


def _watch(data: bytes, dialect: Dialect) -> None:
    """However a stream is cut, the same goes on to the client and the same is learnt."""
    assert _watched(pieces(data), dialect) == _watched([b"".join(pieces(data))], dialect)


def _watched(stream: Iterator[bytes] | list[bytes], dialect: Dialect) -> tuple[object, ...]:
    watch = StreamWatch(dialect)
    given = b"".join([watch.feed(piece) for piece in stream if piece]) + watch.finish()
    return EventReader().feed(given), watch.ending, watch.content_seen, watch.usage, watch.error_code, watch.next_number


def brief(data: bytes) -> None:
    """A body is refused with our own error, or its model can be replaced and nothing else changes."""
    try:
        read_brief(data)
        changed = with_model(data, "other")
    except CortexError as refused:
        _told(refused)
        return
    before, after = (msgspec.json.decode(body, type=dict[str, msgspec.Raw]) for body in (data, changed))
    assert read_brief(changed).model == "other"
    assert before | {"model": b""} == after | {"model": b""}


def request_openai(data: bytes) -> None:
    """OpenAI's parsers, and the one of rerank."""
    for parse in (parse_chat, parse_completion, parse_embeddings, parse_rerank):
        _parsed(parse, data)


def request_anthropic(data: bytes) -> None:
    """Both of Anthropic's, and the translation for engines that speak only OpenAI."""
    _parsed(parse_messages, data)
    _parsed(parse_count_tokens, data)
    _parsed(lambda body: json.dumps(messages_to_chat(parse_object(body)), ensure_ascii=False).encode(), data)


def request_responses(data: bytes) -> None:
    """The parser, and the translation for engines that speak only chat."""
    _parsed(parse_responses, data)
    _parsed(lambda body: json.dumps(responses_to_chat(parse_object(body))[0], ensure_ascii=False).encode(), data)


def _parsed(parse: Callable[[bytes], object], data: bytes) -> None:
    try:
        parse(data)
    except CortexError as refused:
        _told(refused)


def engine_answer(data: bytes) -> None:
    """A document or a refusal of an engine that is not ours, whatever it says."""
    for event in chat_document_to_events(data):
        if isinstance(event, TextDelta | ReasoningDelta):
            assert event.text
    _told(chat_error_to_error(502, data, data[:3].decode("latin-1")))


def headers(data: bytes) -> None:
    """A client's headers, as `name: value` lines: kept ones have no control characters, keys never go on."""
    lines = [line.partition(":") for line in data.decode("latin-1").split("\n")]
    sent = {name.strip().lower(): value.strip() for name, _, value in lines}
    try:
        kept = passed_on(sent.items(), "r")
        assert not any(character in text for text in [*kept, *kept.values()] for character in "\r\n\0")
        assert not {"authorization", "x-api-key", "cookie", "host"} & kept.keys()
        _KEYS.client(sent)
    except CortexError as refused:
        _told(refused)


def _told(refused: CortexError) -> None:
    assert refused.message
    assert refused.status >= 400


TARGETS: dict[str, Callable[[bytes], None]] = {
    "splitter": splitter,
    "event_reader": event_reader,
    "chat_stream": chat_stream,
    "watch_openai": watch_openai,
    "watch_anthropic": watch_anthropic,
    "watch_responses": watch_responses,
    "brief": brief,
    "request_openai": request_openai,
    "request_anthropic": request_anthropic,
    "request_responses": request_responses,
    "engine_answer": engine_answer,
    "headers": headers,
}
