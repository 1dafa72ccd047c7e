"""Grammar rules of formats that write a call as a name and JSON. Called by: the formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cortex_dialects.generation import ToolSchema, ToolUse
from cortex_neuron.text import lark


def alternatives(use: ToolUse, body: Callable[[str, str], str]) -> str:
    """The rule `tool`: one of the tools. `body` makes one's of its name and of the name of its arguments' rule."""
    lines = [f"tool: {' | '.join(f'tool_{i}' for i in range(len(use.tools)))}"]
    for i, tool in enumerate(use.tools):
        lines.append(f"tool_{i}: {body(tool.name, f'tool_args_{i}')}")
        lines.append(f"tool_args_{i}: {lark.schema(arguments_schema(tool))}")
    return "\n".join(lines)


def arguments_schema(tool: ToolSchema) -> dict[str, Any]:
    """Arguments are an object, whatever the schema leaves open."""
    return {"type": "object", **tool.schema}


def named(key: str) -> Callable[[str, str], str]:
    """The body of a call as an object with its name, and its arguments under `key`."""

    def body(name: str, arguments: str) -> str:
        head = lark.text(f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{key}": ')
        return f'{head} {arguments} "}}"'

    return body


def repeated(use: ToolUse, between: str) -> str:
    """The rule `calls` over a rule `call`."""
    return f"calls: call ({between} call)*" if use.parallel else "calls: call"
