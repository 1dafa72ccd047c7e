"""OpenAI's chat completions and completions, as far as cortex honours them.

Owns: the shapes and ranges of requests, answers and chunks, with vLLM's names where OpenAI has none. Does not own:
parameters that are known and not honoured (cortex_dialects.unsupported) or what a request comes to
(cortex_dialects.openai). Called by: dialects, and the services' OpenAPI documents.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Tag

from cortex_contracts.wire.openai_formats import (
    Choices,
    Effort,
    Pattern,
    ResponseFormat,
    SchemaOrText,
    StructuredOutputs,
    ToolChoice,
)
from cortex_contracts.wire.shape import INT32_MAX, INT64_MAX, Finite, LeftOut, Lenient, Shape, TokenLimit, either

TokenId = Annotated[int, Field(ge=0, le=INT32_MAX)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Penalty = Annotated[Finite, Field(ge=-2, le=2)]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class TextPart(Lenient):
    type: Literal["text"]
    text: str


class RefusalPart(Lenient):
    """What an assistant message may hold in place of text: the model's words, as any others."""

    type: Literal["refusal"]
    refusal: str


class ImagePart(Lenient):
    type: Literal["image_url"]
    image_url: dict[str, Any]


Part = Annotated[TextPart | RefusalPart | ImagePart, Field(discriminator="type")]
Content = Annotated[
    Annotated[str, Tag("string")] | Annotated[list[Part], Tag("list"), Field(fail_fast=True)],
    either("a string or a list of parts"),
]


class Message(Shape):
    """A turn. Fields that are not named here reach the chat template, which may know them."""

    model_config = ConfigDict(extra="allow")
    name: str | None = None


class SystemMessage(Message):
    role: Literal["system", "developer"]
    content: Content


class UserMessage(Message):
    role: Literal["user"]
    content: Content


class FunctionCall(Lenient):
    """`arguments` is JSON in a string; an object is taken as well (case W3)."""

    name: str
    arguments: str | dict[str, Any] = ""


class ToolCall(Lenient):
    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class AssistantMessage(Message):
    """`content` may be null or absent, as it is on tool-call turns (case W1)."""

    role: Literal["assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None
    function_call: None = None
    audio: Annotated[None, Field(description="No answers are kept")] = None


class ToolMessage(Message):
    role: Literal["tool"]
    content: Content
    tool_call_id: str | None = None


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class FunctionDefinition(Shape):
    model_config = ConfigDict(extra="allow")
    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Shape):
    model_config = ConfigDict(extra="allow")
    type: Literal["function"]
    function: FunctionDefinition


class StreamOptions(Shape):
    include_usage: bool | None = None
    include_obfuscation: Annotated[bool | None, Field(description="Accepted; nothing is obfuscated")] = None


StopString = Annotated[str, Field(min_length=1)]
Stop = Annotated[
    Annotated[StopString, Tag("string")] | Annotated[list[StopString], Tag("list"), Field(max_length=16)],
    either("a string or a list of strings"),
]


class GenerationRequest(Shape):
    """What both of OpenAI's generation endpoints take. Null is the same as absent, everywhere."""

    model: Annotated[str, Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenLimit | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stop: Stop | None = None
    seed: Annotated[int, Field(ge=-INT64_MAX - 1, le=INT64_MAX)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: (
        dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[Finite, Field(ge=-100, le=100)]] | None
    ) = None
    user: str | None = None
    response_format: ResponseFormat | None = None
    # vLLM's
    top_k: Annotated[int, Field(ge=-1, le=INT32_MAX)] | None = None
    min_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Finite, Field(gt=0, le=10)] | None = None
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None
    guided_json: SchemaOrText | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: Pattern | None = None
    structured_outputs: StructuredOutputs | None = None


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions"""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    # These say who asks, how it is billed or cached, or what is kept of it: accepted, and no answer depends on them.
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None


def text_kind(value: object) -> str | None:
    """The tag of what may be one text or several, in letters or in tokens."""
    first = value[0] if isinstance(value, list) and value else None
    match value, first:
        case str(), _:
            return "string"
        case list(), bool():
            return None
        case list(), int():
            return "tokens"
        case list(), list():
            return "token_lists"
        case list(), str() | None:
            return "strings"
    return None


CompletionPrompt = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[list[str], Tag("strings"), Field(min_length=1, fail_fast=True)]
    | Annotated[TokenIds, Tag("tokens")]
    | Annotated[list[TokenIds], Tag("token_lists"), Field(min_length=1, fail_fast=True)],
    either("a string, a list of strings, a list of token ids, or a list of lists of token ids", text_kind),
]


class CompletionRequest(GenerationRequest):
    """POST /v1/completions"""

    prompt: CompletionPrompt
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None


class PromptTokensDetails(BaseModel):
    cached_tokens: int = 0


class CompletionTokensDetails(BaseModel):
    reasoning_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = LeftOut
    completion_tokens_details: CompletionTokensDetails | None = LeftOut  # where the model has reasoned


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None = None


class ChatTokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob] = []


class ChatLogprobs(BaseModel):
    content: list[ChatTokenLogprob] | None = None
    refusal: None = None


class CalledFunction(BaseModel):
    name: str
    arguments: str


class CalledTool(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatAnswer(BaseModel):
    """The assistant's turn. What is absent is left out, except `content`."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    reasoning_content: str | None = LeftOut
    tool_calls: list[CalledTool] | None = LeftOut


class ChatChoice(BaseModel):
    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason
    token_ids: list[int] | None = LeftOut  # with return_token_ids


class ChatCompletion(BaseModel):
    """The answer of /v1/chat/completions"""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class FunctionDelta(BaseModel):
    name: str | None = LeftOut
    arguments: str | None = LeftOut


class ToolDelta(BaseModel):
    index: int
    id: str | None = LeftOut
    type: Literal["function"] | None = LeftOut
    function: FunctionDelta


class ChatDelta(BaseModel):
    role: Literal["assistant"] | None = LeftOut
    content: str | None = LeftOut
    reasoning_content: str | None = LeftOut
    tool_calls: list[ToolDelta] | None = LeftOut


class ChatChunkChoice(BaseModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    token_ids: list[int] | None = LeftOut


class ChatChunk(BaseModel):
    """One event of a streamed /v1/chat/completions"""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = LeftOut


class CompletionLogprobs(BaseModel):
    """One entry a token. A log-probability is null where there is none, as for the first token of an echoed prompt."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float]] | None = None


class CompletionChoice(BaseModel):
    """Also a chunk's choice, where `finish_reason` is null until the last."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None
    token_ids: list[int] | None = LeftOut


class Completion(BaseModel):
    """The answer of /v1/completions, and one event of it when streamed"""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = LeftOut


class ModelCard(BaseModel):
    """One entry of /v1/models. Services add fields of their own to it."""

    model_config = ConfigDict(extra="allow")
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "cortex"


class ModelList(BaseModel):
    """GET /v1/models"""

    object: Literal["list"] = "list"
    data: list[ModelCard]
