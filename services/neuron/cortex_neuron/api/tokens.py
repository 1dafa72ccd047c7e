"""Text as tokens and back, for clients that count: no engine is asked, and no seat is taken.

Called by: application.
"""

from __future__ import annotations

import asyncio

from pydantic import BaseModel
from sanic import HTTPResponse, Request
from sanic.response import raw

from cortex_contracts.wire.anthropic import TokenCount
from cortex_contracts.wire.errors import InvalidParameter
from cortex_contracts.wire.responses_answer import InputTokens
from cortex_contracts.wire.tokens import DetokenizeAnswer, TokenizeAnswer
from cortex_dialects.anthropic import parse_count_tokens
from cortex_dialects.generation import Generation
from cortex_dialects.responses import parse_input_tokens
from cortex_dialects.tokens import parse_detokenize, parse_tokenize
from cortex_neuron.api.inference import accounted_whole, of_ours, parse_body
from cortex_neuron.api.neuron import Neuron
from cortex_neuron.api.request_log import Outcome
from cortex_neuron.inference.preparation import encode


async def count_tokens(request: Request) -> HTTPResponse:
    """POST /v1/messages/count_tokens"""
    return await accounted_whole(request, _count_tokens)


async def input_tokens(request: Request) -> HTTPResponse:
    """POST /v1/responses/input_tokens"""
    return await accounted_whole(request, _input_tokens)


async def tokenize(request: Request) -> HTTPResponse:
    """POST /tokenize"""
    return await accounted_whole(request, _tokenize)


async def detokenize(request: Request) -> HTTPResponse:
    """POST /detokenize"""
    return await accounted_whole(request, _detokenize)


async def _count_tokens(request: Request, neuron: Neuron, outcome: Outcome) -> HTTPResponse:
    generation = await parse_body(request, parse_count_tokens)
    return _json(TokenCount(input_tokens=await _counted(generation, neuron, outcome)))


async def _input_tokens(request: Request, neuron: Neuron, outcome: Outcome) -> HTTPResponse:
    generation = await parse_body(request, parse_input_tokens)
    return _json(InputTokens(input_tokens=await _counted(generation, neuron, outcome)))


async def _counted(generation: Generation, neuron: Neuron, outcome: Outcome) -> int:
    outcome.model = generation.model
    neuron.residency.check_open()
    prompts = await encode(generation, of_ours(neuron.residency.find(generation.model)))
    return sum(map(len, prompts))


async def _tokenize(request: Request, neuron: Neuron, outcome: Outcome) -> HTTPResponse:
    asked = await parse_body(request, parse_tokenize)
    outcome.model = asked.model
    neuron.residency.check_open()
    serving = of_ours(neuron.residency.find(asked.model))
    text = serving.text
    tokens = await asyncio.to_thread(text.encode, asked.prompt, add_special_tokens=asked.add_special_tokens)
    texts = [text.tokenizer.id_to_token(token) or "" for token in tokens] if asked.with_texts else None
    answer = TokenizeAnswer(
        count=len(tokens), max_model_len=serving.loaded.context, tokens=list(tokens), token_strs=texts
    )
    return _json(answer)


async def _detokenize(request: Request, neuron: Neuron, outcome: Outcome) -> HTTPResponse:
    asked = await parse_body(request, parse_detokenize)
    outcome.model = asked.model
    neuron.residency.check_open()
    text = of_ours(neuron.residency.find(asked.model)).text
    if max(asked.tokens, default=0) >= text.vocab_size:
        strange = f"tokens: {max(asked.tokens)} is outside of the vocabulary of {text.vocab_size}"
        raise InvalidParameter(strange, param="tokens")
    return _json(DetokenizeAnswer(prompt=await asyncio.to_thread(text.decode, asked.tokens, with_special=True)))


def _json(answer: BaseModel) -> HTTPResponse:
    return raw(answer.model_dump_json(), content_type="application/json")
