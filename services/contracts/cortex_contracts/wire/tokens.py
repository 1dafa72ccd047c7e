"""Text as a model's tokens and back, in vLLM's words.

Owns: the shapes of /tokenize and /detokenize. Called by: cortex_dialects.tokens, and the services' OpenAPI documents.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from cortex_contracts.wire.openai import ChatMessage, TokenId, Tool
from cortex_contracts.wire.shape import LeftOut, Shape


class TokenizeRequest(Shape):
    """POST /tokenize: of a prompt, or of messages as the model's chat template puts them."""

    model: Annotated[str, Field(min_length=1)]
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)] | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: Annotated[bool | None, Field(description="Of messages; true where absent")] = None
    add_special_tokens: Annotated[bool | None, Field(description="True where absent, but of messages")] = None
    return_token_strs: bool | None = None


class TokenizeAnswer(BaseModel):
    """The answer of /tokenize"""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = LeftOut  # with return_token_strs


class DetokenizeRequest(Shape):
    """POST /detokenize"""

    model: Annotated[str, Field(min_length=1)]
    tokens: Annotated[list[TokenId], Field(fail_fast=True)]


class DetokenizeAnswer(BaseModel):
    """The answer of /detokenize: special tokens are in it"""

    prompt: str
