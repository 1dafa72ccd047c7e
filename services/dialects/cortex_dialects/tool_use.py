"""Which tools an answer may call, or must. Called by: openai.py."""

from __future__ import annotations

from cortex_contracts.wire.errors import InvalidParameter
from cortex_contracts.wire.openai import ChatRequest, Tool
from cortex_contracts.wire.openai_formats import NamedToolChoice
from cortex_dialects.generation import ToolSchema, ToolUse

_ANYTHING = {"type": "object"}


def tool_use(request: ChatRequest) -> ToolUse | None:
    """None where no call is to be looked for. Raises InvalidParameter."""
    choice, tools = request.tool_choice, request.tools or []
    parallel = request.parallel_tool_calls is not False
    _check_names(tools)
    if isinstance(choice, NamedToolChoice):
        return ToolUse((_named(choice.function.name, tools),), forced=True, parallel=False)
    if choice == "required" and not tools:
        raise InvalidParameter("tool_choice: required, and there are no tools", param="tool_choice")
    if choice == "none" or not tools:
        return None
    schemas = tuple(_schema(tool, i) for i, tool in enumerate(tools))
    return ToolUse(schemas, forced=choice == "required", parallel=parallel)


def _check_names(tools: list[Tool]) -> None:
    seen: set[str] = set()
    for i, tool in enumerate(tools):
        if tool.function.name in seen:
            place = f"tools[{i}].function.name"
            raise InvalidParameter(f"{place}: {tool.function.name!r} is the name of another tool, too", param=place)
        seen.add(tool.function.name)


def _named(name: str, tools: list[Tool]) -> ToolSchema:
    for i, tool in enumerate(tools):
        if tool.function.name == name:
            return _schema(tool, i)
    known = ", ".join(repr(tool.function.name) for tool in tools) or "none"
    place = "tool_choice.function.name"
    raise InvalidParameter(f"{place}: {name[:80]!r} is not among the tools ({known})", param=place)


def _schema(tool: Tool, index: int) -> ToolSchema:
    function, place = tool.function, f"tools[{index}].function.parameters"
    return ToolSchema(function.name, function.parameters or _ANYTHING, place, function.strict is True)
