"""Requests to /v1/embeddings, and their answers. Called by: the neuron."""

from __future__ import annotations

import array
import base64
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from cortex_contracts.wire.embeddings import Embedding, EmbeddingList, EmbeddingRequest, InputUsage
from cortex_contracts.wire.errors import InvalidParameter
from cortex_dialects import unsupported
from cortex_dialects.generation import TextPrompt, TokenPrompt
from cortex_dialects.json_body import parse_object
from cortex_dialects.openai import text_prompts
from cortex_dialects.validation import validate


@dataclass(frozen=True, slots=True)
class Embed:
    """What is to be embedded, and how that is told. `dimensions` None: all there are."""

    model: str
    inputs: tuple[TextPrompt | TokenPrompt, ...]
    dimensions: int | None
    prompt_name: str | None
    in_base64: bool


def parse_embeddings(body: bytes) -> Embed:
    """The body of /v1/embeddings. Raises InvalidRequest's kin, and nothing else, for any bytes."""
    request = validate(EmbeddingRequest, parse_object(body), unsupported.EMBEDDING)
    inputs = text_prompts(request.input)
    if request.prompt_name is not None and any(isinstance(each, TokenPrompt) for each in inputs):
        raise InvalidParameter("prompt_name: stands before texts, and the input is token ids", param="prompt_name")
    in_base64 = request.encoding_format == "base64"
    return Embed(request.model, inputs, request.dimensions, request.prompt_name, in_base64)


def embedding_list(asked: Embed, vectors: Sequence[bytes], num_tokens: int) -> EmbeddingList:
    """The answer. Vectors are little-endian float32, in the order of the inputs."""
    told = [base64.b64encode(each).decode() if asked.in_base64 else _numbers(each) for each in vectors]
    return EmbeddingList(
        data=[Embedding(index=index, embedding=each) for index, each in enumerate(told)],
        model=asked.model,
        usage=InputUsage(prompt_tokens=num_tokens, total_tokens=num_tokens),
    )


def _numbers(vector: bytes) -> list[float]:
    numbers = array.array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
