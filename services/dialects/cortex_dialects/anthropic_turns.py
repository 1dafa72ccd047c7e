"""Anthropic's turns as OpenAI's messages (case W5).

Owns: where each block goes. Never its words: a system prompt comes out as it went in (case W8), text blocks stay
apart as parts. Called by: anthropic.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cortex_contracts.wire import anthropic as wire

Json = dict[str, Any]


def chat_messages(system: str | list[wire.Text] | None, turns: Iterable[wire.Turn]) -> list[Json]:
    """The messages; a turn with tool results becomes several."""
    first = [] if system is None or system == [] else [{"role": "system", "content": _content(system)}]
    return first + [message for turn in turns for message in _messages(turn)]


def image_paths(turns: Iterable[wire.Turn]) -> Iterator[str]:
    """Where images are, such as messages[0].content[2]."""
    for i, turn in enumerate(turns):
        yield from _image_paths(turn.content, f"messages[{i}].content")


def _image_paths(content: object, path: str) -> Iterator[str]:
    for i, block in enumerate(content if isinstance(content, list) else ()):
        if isinstance(block, wire.Image):
            yield f"{path}[{i}]"
        elif isinstance(block, wire.ToolResult):
            yield from _image_paths(block.content, f"{path}[{i}].content")


def _messages(turn: wire.Turn) -> list[Json]:
    match turn:
        case wire.AssistantTurn():
            return [_assistant(turn)]
        case wire.UserTurn():
            return [{"role": "user", "content": turn.content}] if isinstance(turn.content, str) else _user(turn.content)
        case wire.SystemTurn():
            return [{"role": "system", "content": _content(turn.content)}]


def _user(blocks: Sequence[wire.UserBlock]) -> list[Json]:
    """Tool results come first, as OpenAI wants them right after the calls; then the rest of the turn.

    OpenAI's tool messages hold text only, so images of a result go with the rest.
    """
    results = [block for block in blocks if isinstance(block, wire.ToolResult)]
    rest: list[wire.Text | wire.Image] = [
        image for result in results for image in _parts(result.content) if isinstance(image, wire.Image)
    ]
    rest += [block for block in blocks if not isinstance(block, wire.ToolResult)]
    messages = [_tool_message(result) for result in results]
    if rest or not results:
        messages.append({"role": "user", "content": _content(rest)})
    return messages


def _tool_message(result: wire.ToolResult) -> Json:
    """OpenAI has no is_error: the text says it."""
    content = _content([part for part in _parts(result.content) if isinstance(part, wire.Text)])
    if result.is_error:
        content = f"Error: {content}" if isinstance(content, str) else [{"type": "text", "text": "Error:"}, *content]
    return {"role": "tool", "tool_call_id": result.tool_use_id, "content": content}


def _parts(content: str | list[wire.Text | wire.Image] | None) -> list[wire.Text | wire.Image]:
    return [wire.Text(type="text", text=content)] if isinstance(content, str) else content or []


def _assistant(turn: wire.AssistantTurn) -> Json:
    if isinstance(turn.content, str):
        return {"role": "assistant", "content": turn.content}
    texts = [block for block in turn.content if isinstance(block, wire.Text)]
    # One without text had its thoughts omitted: there is nothing to show a template.
    thoughts = [block.thinking for block in turn.content if isinstance(block, wire.Thinking) and block.thinking]
    calls = [_tool_call(block) for block in turn.content if isinstance(block, wire.ToolUse)]
    message: Json = {"role": "assistant", "content": _content(texts) if texts or not calls else None}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_call(block: wire.ToolUse) -> Json:
    arguments = json.dumps(block.input, ensure_ascii=False)
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _content(content: str | Sequence[wire.Text | wire.Image]) -> str | list[Json]:
    """One text as a string, which every engine takes; more, or images, as parts."""
    if isinstance(content, str):
        return content
    if all(isinstance(block, wire.Text) for block in content) and len(content) < 2:
        return "".join(block.text for block in content if isinstance(block, wire.Text))
    return [_part(block) for block in content]


def _part(block: wire.Text | wire.Image) -> Json:
    if isinstance(block, wire.Text):
        return {"type": "text", "text": block.text}
    source = block.source
    url = source.url if isinstance(source, wire.UrlSource) else f"data:{source.media_type};base64,{source.data}"
    return {"type": "image_url", "image_url": {"url": url}}
