"""Texts as vectors, in OpenAI's words.

Owns: the shapes of /v1/embeddings. Called by: cortex_dialects.embeddings, and the services' OpenAPI documents.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, Tag

from cortex_contracts.wire.openai import TokenIds, text_kind
from cortex_contracts.wire.shape import INT32_MAX, Shape, either

MOST_INPUTS = 2048  # OpenAI's limit

EmbeddingInput = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[list[str], Tag("strings"), Field(min_length=1, max_length=MOST_INPUTS, fail_fast=True)]
    | Annotated[TokenIds, Tag("tokens")]
    | Annotated[list[TokenIds], Tag("token_lists"), Field(min_length=1, max_length=MOST_INPUTS, fail_fast=True)],
    either("a string, a list of strings, a list of token ids, or a list of lists of token ids", text_kind),
]


class EmbeddingRequest(Shape):
    """POST /v1/embeddings"""

    model: Annotated[str, Field(min_length=1)]
    input: EmbeddingInput
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=INT32_MAX)] | None = None
    prompt_name: Annotated[str | None, Field(description="Of the model's own prompts, which one stands before")] = None
    user: str | None = None


class Embedding(BaseModel):
    """One input's vector: numbers, or the base64 of its little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class InputUsage(BaseModel):
    """What a request took that writes nothing."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The answer of /v1/embeddings"""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: InputUsage
