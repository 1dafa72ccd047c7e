"""OpenAI's responses, by way of its chat request.

Owns: the translation, as one pure function that also serves the gateway for engines that speak only chat (vLLM), and
what an answer repeats of its request. Does not own: the items (responses_items.py), shapes
(cortex_contracts.wire.responses), what a chat request comes to (openai.py). Called by: the neuron (parse_*),
the gateway (responses_to_chat).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cortex_contracts.wire import responses as wire
from cortex_contracts.wire.errors import InvalidParameter, UnsupportedParameter
from cortex_contracts.wire.responses_answer import Repeated
from cortex_contracts.wire.shape import Shape
from cortex_dialects import unsupported
from cortex_dialects.generation import Generation
from cortex_dialects.json_body import parse_object
from cortex_dialects.places import read_as_chat
from cortex_dialects.responses_items import chat_messages, check_images
from cortex_dialects.validation import validate

# The same name and meaning in both.
_SHARED = ("temperature", "top_p", "stream", "parallel_tool_calls", "user")
# What would need a memory that no gateway and no neuron has.
_SEND_AGAIN = "no responses are kept here; send all items of the conversation again, as input"
_STATE = {
    "previous_response_id": _SEND_AGAIN,
    "conversation": _SEND_AGAIN,
    "background": "no responses are kept here that could be asked for later; wait for the answer, or stream it",
}
# Of a translated request, and what the client calls the same.
_TOLD_OF_A_TOOL = {"type", "name", "description", "parameters", "strict"}
_PLACES = (
    ("response_format.json_schema.schema", "text.format.schema"),
    ("response_format", "text.format"),
    (".function.", "."),
    ("messages", "input"),
)


def parse_responses(body: bytes) -> Generation:
    """The body of /v1/responses. Raises InvalidRequest's kin, and nothing else, for any bytes."""
    request = _read(parse_object(body))
    check_images(request.input)
    return replace(read_as_chat(_chat(request), _PLACES), repeated=_repeated(request))


def responses_to_chat(body: dict[str, Any]) -> tuple[dict[str, Any], Repeated]:
    """A /v1/responses request as a /v1/chat/completions request, and what its answer repeats. Raises InvalidRequest's
    kin. A stream asks for usage, since a response always ends with it."""
    request = _read(body)
    return _chat(request), _repeated(request)


def parse_input_tokens(body: bytes) -> Generation:
    """The body of /v1/responses/input_tokens, as the generation whose prompt is to be counted."""
    fields = parse_object(body)
    _check_stateless(fields)
    request = validate(wire.InputTokensRequest, fields, unsupported.INPUT_TOKENS)
    check_images(request.input)
    return read_as_chat(_prompt(request), _PLACES)


def _check_stateless(body: dict[str, Any]) -> None:
    for name, why in _STATE.items():
        if body.get(name):
            raise UnsupportedParameter(f"{name}: {why}", param=name)


def _read(body: dict[str, Any]) -> wire.ResponsesRequest:
    _check_stateless(body)
    request = validate(wire.ResponsesRequest, body, unsupported.RESPONSES)
    if request.stream_options is not None and not request.stream:
        raise InvalidParameter("stream_options: needs stream to be true", param="stream_options")
    if request.top_logprobs and not _with_logprobs(request):
        raise InvalidParameter(f"top_logprobs: needs include to have {wire.LOGPROBS!r}", param="top_logprobs")
    return request


def _with_logprobs(request: wire.ResponsesRequest) -> bool:
    return wire.LOGPROBS in (request.include or ())


def _chat(request: wire.ResponsesRequest) -> dict[str, Any]:
    chat = _prompt(request) | _response_format(request)
    chat |= {name: value for name in _SHARED if (value := getattr(request, name)) is not None}
    if request.max_output_tokens is not None:
        chat["max_completion_tokens"] = request.max_output_tokens
    if request.stream:
        chat["stream_options"] = {"include_usage": True}
    if _with_logprobs(request):
        chat |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    return chat


def _prompt(request: wire.InputTokensRequest) -> dict[str, Any]:
    chat: dict[str, Any] = {"model": request.model, "messages": chat_messages(request.instructions, request.input)}
    if request.reasoning is not None and request.reasoning.effort is not None:
        chat["reasoning_effort"] = request.reasoning.effort
    return chat | _tools(request)


def _tools(request: wire.InputTokensRequest) -> dict[str, Any]:
    tools = [_function(tool, f"tools[{i}]") for i, tool in enumerate(request.tools or ())]
    choice = request.tool_choice
    chat: dict[str, Any] = {}
    match choice:
        case str():
            chat["tool_choice"] = choice
        case wire.NamedTool():
            chat["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
        case wire.AllowedTools():
            chat["tool_choice"] = choice.mode
            tools = _allowed(tools, choice)
        case wire.HostedTool():
            raise _hosted(choice, "tool_choice")
    return chat | ({"tools": tools} if tools else {})


def _function(tool: wire.Tool, place: str) -> dict[str, Any]:
    if isinstance(tool, wire.HostedTool):
        raise _hosted(tool, place)
    told = tool.model_dump(include={"name", "description", "parameters", "strict"}, exclude_none=True)
    return {"type": "function", "function": told}


def _hosted(tool: wire.HostedTool, place: str) -> UnsupportedParameter:
    return UnsupportedParameter(
        f"{place}: nobody here runs the tool {tool.type[:80]!r}; only functions of the client's can be called",
        param=place,
    )


def _allowed(tools: list[dict[str, Any]], choice: wire.AllowedTools) -> list[dict[str, Any]]:
    """The model is shown no others, so that it calls no others. Raises InvalidParameter."""
    known = {tool["function"]["name"] for tool in tools}
    for i, allowed in enumerate(choice.tools):
        if allowed.name not in known:
            place = f"tool_choice.tools[{i}].name"
            raise InvalidParameter(f"{place}: {allowed.name[:80]!r} is not among the tools", param=place)
    allowed_names = {allowed.name for allowed in choice.tools}
    return [tool for tool in tools if tool["function"]["name"] in allowed_names]


def _response_format(request: wire.ResponsesRequest) -> dict[str, Any]:
    asked = request.text.format if request.text is not None else None
    if asked is None:
        return {}
    told = asked.model_dump(by_alias=True, exclude_none=True)
    if isinstance(asked, wire.JsonSchemaFormat):
        del told["type"]
        return {"response_format": {"type": "json_schema", "json_schema": told}}
    return {"response_format": told}


def _repeated(request: wire.ResponsesRequest) -> Repeated:
    """The request's own values, of those that an answer tells again."""
    told = {name: value for name in Repeated.model_fields if (value := getattr(request, name)) is not None}
    if request.tools is not None:
        told["tools"] = [tool.model_dump(include=_TOLD_OF_A_TOOL) for tool in request.tools]
    if request.tool_choice is not None and not isinstance(request.tool_choice, str):
        told["tool_choice"] = _sent(request.tool_choice)
    told["reasoning"] = {"effort": request.reasoning.effort if request.reasoning else None, "summary": None}
    form = request.text.format if request.text is not None else None
    told["text"] = {"format": {"type": "text"} if form is None else _sent(form)}
    return Repeated.model_validate(told)


def _sent(shape: Shape) -> dict[str, Any]:
    return shape.model_dump(by_alias=True, exclude_none=True)
