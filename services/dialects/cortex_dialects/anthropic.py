"""Anthropic's requests, by way of OpenAI's chat request.

Owns: the translation, as one pure function that also serves the gateway for engines that speak only OpenAI (vLLM).
Does not own: the turns (anthropic_turns.py), shapes (cortex_contracts.wire.anthropic), what a chat request comes to
(openai.py). Called by: the neuron (parse_*), the gateway (messages_to_chat).
"""

from __future__ import annotations

from typing import Any

from cortex_contracts.wire import anthropic as wire
from cortex_contracts.wire.errors import ImagesNotSupported, UnsupportedParameter
from cortex_dialects import unsupported
from cortex_dialects.anthropic_turns import chat_messages, image_paths
from cortex_dialects.generation import Generation
from cortex_dialects.json_body import parse_object
from cortex_dialects.openai import read_chat
from cortex_dialects.validation import validate

# The same name and meaning in both dialects.
_SHARED = ("max_tokens", "temperature", "top_p", "top_k", "stream")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def parse_messages(body: bytes) -> Generation:
    """The body of /v1/messages. Raises InvalidRequest's kin, and nothing else, for any bytes."""
    request = validate(wire.MessagesRequest, parse_object(body), unsupported.MESSAGES)
    _check_images(request)
    if isinstance(request.messages[-1], wire.AssistantTurn):
        path = f"messages[{len(request.messages) - 1}]"
        raise UnsupportedParameter(f"{path}: the last turn may not be the assistant's (prefill)", param=path)
    if request.tool_choice and request.tool_choice.type in ("any", "tool"):
        message = f"tool_choice: not supported; leave it out or send auto or none (it is {request.tool_choice.type})"
        raise UnsupportedParameter(message, param="tool_choice")
    return read_chat(_generation_fields(request))


def parse_count_tokens(body: bytes) -> Generation:
    """The body of /v1/messages/count_tokens, as the generation whose prompt is to be counted."""
    request = validate(wire.CountTokensRequest, parse_object(body), unsupported.MESSAGES)
    _check_images(request)
    return read_chat(_prompt_fields(request))


def messages_to_chat(body: dict[str, Any]) -> dict[str, Any]:
    """A /v1/messages request as a /v1/chat/completions request with vLLM's extensions. Raises InvalidRequest's kin.

    A last turn of the assistant's is a prefill, which the engine is told to continue. A stream asks for usage, since
    Anthropic's streams always end with it.
    """
    request = validate(wire.MessagesRequest, body, unsupported.MESSAGES)
    chat = _generation_fields(request)
    choice = request.tool_choice
    if isinstance(choice, wire.NamedToolChoice):
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif choice is not None:
        chat["tool_choice"] = _CHOICES[choice.type]
    if choice is not None and choice.disable_parallel_tool_use is not None:
        chat["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    if isinstance(request.messages[-1], wire.AssistantTurn):
        chat |= {"continue_final_message": True, "add_generation_prompt": False}
    return chat


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
    described = {} if tool.description is None else {"description": tool.description}
    return {"type": "function", "function": {"name": tool.name, **described, "parameters": tool.input_schema}}
