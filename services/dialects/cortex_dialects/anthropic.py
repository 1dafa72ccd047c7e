"""Anthropic's requests, by way of OpenAI's chat request.

Owns: the translation, as one pure function that also serves the gateway for engines that speak only OpenAI (vLLM).
Does not own: the turns (anthropic_turns.py), shapes (cortex_contracts.wire.anthropic), what a chat request comes to
(openai.py). Called by: the neuron (parse_*), the gateway (messages_to_chat).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cortex_contracts.wire import anthropic as wire
from cortex_contracts.wire.errors import ImagesNotSupported, UnsupportedParameter
from cortex_dialects import unsupported
from cortex_dialects.anthropic_turns import chat_messages, image_paths
from cortex_dialects.generation import Generation
from cortex_dialects.json_body import parse_object
from cortex_dialects.openai import read_chat
from cortex_dialects.places import read_as_chat
from cortex_dialects.validation import validate

# The same name and meaning in both dialects.
_SHARED = ("max_tokens", "temperature", "top_p", "top_k", "stream")
_EFFORTS = {"xhigh": "high", "max": "high"}  # engines know no more than that
# Of a translated request, and what the client calls the same.
_PLACES = (
    ("response_format.json_schema.schema", "output_config.format.schema"),
    (".function.parameters", ".input_schema"),
    (".function.name", ".name"),
)
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def parse_messages(body: bytes) -> Generation:
    """The body of /v1/messages. Raises InvalidRequest's kin, and nothing else, for any bytes."""
    request = validate(wire.MessagesRequest, parse_object(body), unsupported.MESSAGES)
    _check_images(request)
    if isinstance(request.messages[-1], wire.AssistantTurn):
        path = f"messages[{len(request.messages) - 1}]"
        raise UnsupportedParameter(f"{path}: the last turn may not be the assistant's (prefill)", param=path)
    shown = request.thinking is None or request.thinking.display != "omitted"
    chat = _generation_fields(request) | _tool_choice(request) | _answer_format(request)
    return replace(read_as_chat(chat, _PLACES), show_reasoning=shown)


def parse_count_tokens(body: bytes) -> Generation:
    """The body of /v1/messages/count_tokens, as the generation whose prompt is to be counted."""
    request = validate(wire.CountTokensRequest, parse_object(body), unsupported.MESSAGES)
    _check_images(request)
    return read_chat(_prompt_fields(request))


def omits_thinking(body: bytes) -> bool:
    """Whether a /v1/messages request wants none of the thoughts, but their place."""
    if b'"omitted"' not in body:  # it may be megabytes, and mostly is not to be read again
        return False
    thinking = parse_object(body).get("thinking")
    return isinstance(thinking, dict) and thinking.get("display") == "omitted"


def messages_to_chat(body: dict[str, Any]) -> dict[str, Any]:
    """A /v1/messages request as a /v1/chat/completions request with vLLM's extensions. Raises InvalidRequest's kin.

    A last turn of the assistant's is a prefill, which the engine is told to continue. A stream asks for usage, since
    Anthropic's streams always end with it.
    """
    request = validate(wire.MessagesRequest, body, unsupported.MESSAGES)
    chat = _generation_fields(request) | _tool_choice(request) | _answer_format(request)
    if isinstance(request.messages[-1], wire.AssistantTurn):
        chat |= {"continue_final_message": True, "add_generation_prompt": False}
    return chat


def _tool_choice(request: wire.CountTokensRequest) -> dict[str, Any]:
    choice = request.tool_choice
    if choice is None:
        return {}
    chat: dict[str, Any] = {}
    if isinstance(choice, wire.NamedToolChoice):
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        chat["tool_choice"] = _CHOICES[choice.type]
    if choice.disable_parallel_tool_use is not None:
        chat["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return chat


def _answer_format(request: wire.CountTokensRequest) -> dict[str, Any]:
    config = request.output_config
    asked = config.format if config is not None and config.format is not None else request.output_format
    if asked is None:
        return {}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": asked.schema_}}}


def _check_images(request: wire.CountTokensRequest) -> None:
    for path in image_paths(request.messages):
        raise ImagesNotSupported(f"{path}: this model takes no images", param=path)


def _prompt_fields(request: wire.CountTokensRequest) -> dict[str, Any]:
    chat: dict[str, Any] = {"model": request.model, "messages": chat_messages(request.system, request.messages)}
    if request.tools and not (request.tool_choice and request.tool_choice.type == "none"):
        chat["tools"] = [_tool(tool) for tool in request.tools]
    if request.thinking is not None:
        # The switch that chat templates of thinking models have; the others do not look at it.
        chat["chat_template_kwargs"] = {"enable_thinking": request.thinking.type != "disabled"}
    if request.output_config is not None and request.output_config.effort is not None:
        chat["reasoning_effort"] = _EFFORTS.get(request.output_config.effort, request.output_config.effort)
    return chat


def _generation_fields(request: wire.MessagesRequest) -> dict[str, Any]:
    chat = _prompt_fields(request)
    chat |= {name: value for name in _SHARED if (value := getattr(request, name)) is not None}
    if request.stream:
        chat["stream_options"] = {"include_usage": True}
    if request.stop_sequences:
        chat["stop"] = request.stop_sequences
    if request.metadata is not None and request.metadata.user_id is not None:
        chat["user"] = request.metadata.user_id
    return chat


def _tool(tool: wire.Tool) -> dict[str, Any]:
    described: dict[str, Any] = {} if tool.description is None else {"description": tool.description}
    strict = {} if tool.strict is None else {"strict": tool.strict}
    return {"type": "function", "function": {"name": tool.name, **described, "parameters": tool.input_schema, **strict}}
