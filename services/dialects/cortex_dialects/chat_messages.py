"""OpenAI's messages as a chat template wants them: text as one string, tool arguments as objects.

Owns: the shape of a message. Never its words: no message is added, dropped, moved or rewritten (case W8); only the
role `developer`, which templates do not know, becomes `system`, its older name. Called by: openai.py.
"""

from __future__ import annotations

from typing import Any

from cortex_contracts.wire.errors import ImagesNotSupported, InvalidJson
from cortex_contracts.wire.openai import (
    AssistantMessage,
    ChatMessage,
    ImagePart,
    Part,
    RefusalPart,
    TextPart,
    ToolCall,
)
from cortex_dialects.json_body import parse_value

_ROLES = {"developer": "system"}
# As vLLM and llama.cpp join parts for templates that take strings.
_BETWEEN_PARTS = "\n"


def template_messages(messages: list[ChatMessage]) -> tuple[dict[str, Any], ...]:
    """The messages for a template. Raises ImagesNotSupported."""
    return tuple(_template_message(message, f"messages[{i}]") for i, message in enumerate(messages))


def _template_message(message: ChatMessage, path: str) -> dict[str, Any]:
    rest = message.model_dump(exclude_none=True, exclude={"role", "content", "tool_calls", "refusal"})
    content = _text(message.content, f"{path}.content")
    if isinstance(message, AssistantMessage) and message.refusal:
        content = _BETWEEN_PARTS.join(filter(None, (content, message.refusal)))
    turn = {"role": _ROLES.get(message.role, message.role), "content": content, **rest}
    if isinstance(message, AssistantMessage) and message.tool_calls:
        turn["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    return turn


def _text(content: str | list[Part] | None, path: str) -> str:
    """The text of a message; an absent one is empty, since templates add strings to it (case W1)."""
    if not isinstance(content, list):
        return content or ""
    for i, part in enumerate(content):
        if isinstance(part, ImagePart):
            raise ImagesNotSupported(f"{path}[{i}]: this model takes no images", param=f"{path}[{i}]")
    return _BETWEEN_PARTS.join(part.text if isinstance(part, TextPart) else _refusal(part) for part in content)


def _refusal(part: Part) -> str:
    return part.refusal if isinstance(part, RefusalPart) else ""


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": _arguments(call.function.arguments)}
    return call.model_dump(exclude_none=True, exclude={"function"}) | {"function": function}


def _arguments(arguments: str | dict[str, Any]) -> str | dict[str, Any]:
    """Arguments as an object where they are one; what does not parse is left as it came (case W3)."""
    if not isinstance(arguments, str):
        return arguments
    if not arguments.strip():
        return {}
    try:
        value = parse_value(arguments)
    except InvalidJson:
        return arguments
    return value if isinstance(value, dict) else arguments
