"""Which tools an answer may call, or must. Called by: openai.py."""

from __future__ import annotations

from cortex_contracts.wire.errors import InvalidParameter
from cortex_contracts.wire.openai import ChatRequest, Tool
from cortex_contracts.wire.openai_formats import AllowedTools, AllowedToolsChoice, NamedToolChoice
from cortex_dialects.generation import ToolSchema, ToolUse

_ANYTHING = {"type": "object"}


def tool_use(request: ChatRequest) -> ToolUse | None:
    """None where no call is to be looked for. Raises InvalidParameter."""
    choice, tools = request.tool_choice, request.tools or []
    _check_names(tools)
    if isinstance(choice, NamedToolChoice):
        named = _named(choice.function.name, tools, "tool_choice.function.name")
        return ToolUse((named,), forced=True, parallel=False)
    if choice == "required" and not tools:
        raise InvalidParameter("tool_choice: required, and there are no tools", param="tool_choice")
    if isinstance(choice, AllowedToolsChoice):
        _check_allowed(choice.allowed_tools, tools)
    offered = offered_names(request)
    if not offered:
        return None
    schemas = tuple(_schema(tool, i) for i, tool in enumerate(tools) if tool.function.name in offered)
    forced = choice == "required" or (
        isinstance(choice, AllowedToolsChoice) and choice.allowed_tools.mode == "required"
    )
    return ToolUse(schemas, forced=forced, parallel=request.parallel_tool_calls is not False)


def offered_names(request: ChatRequest) -> frozenset[str]:
    """The tools that the model is shown: it calls no others."""
    choice = request.tool_choice
    if choice == "none":
        return frozenset()
    if isinstance(choice, AllowedToolsChoice):
        return frozenset(each.function.name for each in choice.allowed_tools.tools)
    return frozenset(tool.function.name for tool in request.tools or ())


def _check_names(tools: list[Tool]) -> None:
    seen: set[str] = set()
    for i, tool in enumerate(tools):
        if tool.function.name in seen:
            place = f"tools[{i}].function.name"
            raise InvalidParameter(f"{place}: {tool.function.name!r} is the name of another tool, too", param=place)
        seen.add(tool.function.name)


def _check_allowed(allowed: AllowedTools, tools: list[Tool]) -> None:
    for i, each in enumerate(allowed.tools):
        _named(each.function.name, tools, f"tool_choice.allowed_tools.tools[{i}].function.name")


def _named(name: str, tools: list[Tool], place: str) -> ToolSchema:
    for i, tool in enumerate(tools):
        if tool.function.name == name:
            return _schema(tool, i)
    known = ", ".join(repr(tool.function.name) for tool in tools) or "none"
    raise InvalidParameter(f"{place}: {name[:80]!r} is not among the tools ({known})", param=place)


def _schema(tool: Tool, index: int) -> ToolSchema:
    function, place = tool.function, f"tools[{index}].function.parameters"
    return ToolSchema(function.name, function.parameters or _ANYTHING, place, function.strict is True)
