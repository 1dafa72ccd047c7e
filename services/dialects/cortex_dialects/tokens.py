"""Requests to /tokenize and /detokenize. Called by: the neuron."""

from __future__ import annotations

from dataclasses import dataclass

from cortex_contracts.wire import tokens as wire
from cortex_contracts.wire.errors import InvalidParameter
from cortex_dialects.generation import Prompt, TextPrompt
from cortex_dialects.json_body import parse_object
from cortex_dialects.openai import read_chat
from cortex_dialects.validation import validate


@dataclass(frozen=True, slots=True)
class Tokenize:
    """What is to be told of which prompt."""

    model: str
    prompt: Prompt
    add_special_tokens: bool
    with_texts: bool


@dataclass(frozen=True, slots=True)
class Detokenize:
    model: str
    tokens: tuple[int, ...]


def parse_tokenize(body: bytes) -> Tokenize:
    """The body of /tokenize. Raises InvalidRequest's kin, and nothing else, for any bytes."""
    fields = parse_object(body)
    request = validate(wire.TokenizeRequest, fields, {})
    if (request.prompt is None) == (request.messages is None):
        raise InvalidParameter("prompt: either a prompt or messages, and not both", param="prompt")
    special, with_texts = request.add_special_tokens, bool(request.return_token_strs)
    if request.prompt is not None:
        return Tokenize(request.model, TextPrompt(request.prompt), special is not False, with_texts)
    kwargs = dict(request.chat_template_kwargs or {})
    if request.add_generation_prompt is not None:
        kwargs["add_generation_prompt"] = request.add_generation_prompt
    chat = {name: fields.get(name) for name in ("model", "messages", "tools")} | {"chat_template_kwargs": kwargs}
    (prompt,) = read_chat(chat).prompts
    return Tokenize(request.model, prompt, special is True, with_texts)


def parse_detokenize(body: bytes) -> Detokenize:
    """The body of /detokenize. Raises InvalidRequest's kin, and nothing else, for any bytes."""
    request = validate(wire.DetokenizeRequest, parse_object(body), {})
    return Detokenize(request.model, tuple(request.tokens))
