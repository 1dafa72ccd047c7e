"""The items of a response's input as OpenAI's chat messages.

Owns: which items make one turn, and which are refused. Never their words: instructions and texts come out as they went
in and in their order (case W8). Called by: responses.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cortex_contracts.wire import responses as wire
from cortex_contracts.wire.errors import ImagesNotSupported, UnsupportedParameter

Json = dict[str, Any]

# Fields by which an item of a kind that is not read here would have told the model something.
_TELLING = (
    "arguments", "code", "content", "encrypted_content", "input", "output", "outputs", "result", "results",
    "summary", "text", "tools",
)  # fmt: skip
# Those that ask for something, in fields of their own.
_ORDERS = frozenset({"compaction_trigger", "configuration_update"})


@dataclass(slots=True)
class _Turn:
    """The assistant's, while it is put together: thoughts, then text, then calls, as templates have them."""

    thoughts: list[str] = field(default_factory=list)
    texts: list[wire.Part] = field(default_factory=list)
    calls: list[Json] = field(default_factory=list)

    def message(self) -> Json:
        message: Json = {"role": "assistant", "content": _content(self.texts) if self.texts or not self.calls else None}
        if self.thoughts:
            message["reasoning_content"] = "\n".join(self.thoughts)
        if self.calls:
            message["tool_calls"] = self.calls
        return message


def chat_messages(instructions: str | None, given: str | list[wire.Item]) -> list[Json]:
    """The messages: instructions first, then a message for each turn. Raises UnsupportedParameter."""
    first = [] if instructions is None else [{"role": "system", "content": instructions}]
    if isinstance(given, str):
        return [*first, {"role": "user", "content": given}]
    return first + list(_messages(given))


def check_images(given: str | list[wire.Item]) -> None:
    """Raises ImagesNotSupported for the first one."""
    for i, item in enumerate(given if isinstance(given, list) else ()):
        name = "output" if isinstance(item, wire.FunctionCallOutput) else "content"
        content = getattr(item, name, None)
        for k, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, wire.InputImage):
                path = f"input[{i}].{name}[{k}]"
                raise ImagesNotSupported(f"{path}: this model takes no images", param=path)


def _messages(items: Sequence[wire.Item]) -> Iterator[Json]:
    """What the assistant said and called in a row is one turn: a call and its result would else be torn apart."""
    turn: _Turn | None = None
    for i, item in enumerate(items):
        if _begins_a_turn(item, turn) and turn is not None:
            yield turn.message()
            turn = None
        match item:
            case wire.InputMessage(role="assistant") | wire.FunctionCall():
                turn = turn or _Turn()
                _add(turn, item)
            case wire.Reasoning():
                if thoughts := _thoughts(item):
                    turn = turn or _Turn()
                    turn.thoughts.append(thoughts)
            case wire.InputMessage():
                yield {"role": item.role, "content": _content(item.content)}
            case wire.FunctionCallOutput():
                yield _result(item)
            case _:
                _check_silent(item, f"input[{i}]")
    if turn is not None:
        yield turn.message()


def _result(item: wire.FunctionCallOutput) -> Json:
    told = {"tool_call_id": item.call_id, "name": item.name}
    return {"role": "tool", "content": _content(item.output)} | {k: v for k, v in told.items() if v is not None}


def _begins_a_turn(item: wire.Item, turn: _Turn | None) -> bool:
    """Whether the turn before it is over."""
    match item:
        case wire.InputMessage(role="assistant"):
            return turn is not None and bool(turn.texts) and not turn.calls
        case wire.Reasoning():
            return turn is not None and bool(turn.texts or turn.calls) and bool(_thoughts(item))
        case wire.InputMessage() | wire.FunctionCallOutput():
            return True
        case _:
            return False


def _add(turn: _Turn, item: wire.InputMessage | wire.FunctionCall) -> None:
    if isinstance(item, wire.FunctionCall):
        function = {"name": item.name, "arguments": item.arguments}
        turn.calls.append({"id": item.call_id, "type": "function", "function": function})
    elif isinstance(item.content, str):
        turn.texts.append(wire.OutputText(type="output_text", text=item.content))
    else:
        turn.texts += item.content


def _thoughts(item: wire.Reasoning) -> str:
    return "\n".join(thought.text for thought in item.content or item.summary or () if thought.text)


def _content(content: str | Sequence[wire.Part]) -> str | list[Json]:
    """One text as a string, which every engine takes; more, or images, as parts."""
    if isinstance(content, str):
        return content
    if len(content) < 2 and not any(isinstance(part, wire.InputImage) for part in content):
        return "".join(map(_text, content))
    return [_part(part) for part in content]


def _part(part: wire.Part) -> Json:
    if not isinstance(part, wire.InputImage):
        return {"type": "text", "text": _text(part)}
    detail = {} if part.detail is None else {"detail": part.detail}
    return {"type": "image_url", "image_url": {"url": part.image_url or "", **detail}}


def _text(part: wire.Part) -> str:
    match part:
        case wire.Refusal():
            return part.refusal
        case wire.InputText() | wire.OutputText():
            return part.text
        case wire.InputImage():
            return ""


def _check_silent(item: wire.ItemReference | wire.OtherItem, path: str) -> None:
    """What tells the model nothing is left out. Raises UnsupportedParameter for all else."""
    if isinstance(item, wire.ItemReference):
        raise UnsupportedParameter(
            f"{path}: no items are kept here that {item.id[:80]!r} could refer to; send the item itself", param=path
        )
    fields = item.model_extra or {}
    telling = " and ".join(name for name in _TELLING if fields.get(name))
    if item.type in _ORDERS or telling:
        with_what = f" with {telling}" if telling else ""
        raise UnsupportedParameter(
            f"{path}: items of type {item.type[:80]!r}{with_what} are not supported; leave it out", param=path
        )
