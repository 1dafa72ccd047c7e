"""Anthropic's messages, as far as cortex honours them.

Owns: the shapes and ranges of requests, answers and stream events. Does not own: what a request comes to
(cortex_dialects.anthropic). Called by: dialects, and the services' OpenAPI documents.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, Tag

from cortex_contracts.wire.shape import INT32_MAX, Finite, LeftOut, Lenient, Shape, TokenLimit, either

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]


_STRING_OR_BLOCKS = either("a string or a list of blocks")


class Text(Lenient):
    """`cache_control` and `citations` are read over: what is cached is not the client's to say."""

    type: Literal["text"]
    text: str


class Base64Source(Lenient):
    type: Literal["base64"]
    media_type: str
    data: str


class UrlSource(Lenient):
    type: Literal["url"]
    url: str


class Image(Lenient):
    type: Literal["image"]
    source: Annotated[Base64Source | UrlSource, Field(discriminator="type")]


class Thinking(Lenient):
    type: Literal["thinking"]
    thinking: str


class RedactedThinking(Lenient):
    type: Literal["redacted_thinking"]


class ToolUse(Lenient):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


ResultPart = Annotated[Text | Image, Field(discriminator="type")]


class ToolResult(Lenient):
    type: Literal["tool_result"]
    tool_use_id: str
    content: (
        Annotated[
            Annotated[str, Tag("string")] | Annotated[list[ResultPart], Tag("list"), Field(fail_fast=True)],
            _STRING_OR_BLOCKS,
        ]
        | None
    ) = None
    is_error: bool | None = None


UserBlock = Text | Image | ToolResult
AssistantBlock = Text | Thinking | RedactedThinking | ToolUse
SystemContent = Annotated[
    Annotated[str, Tag("string")] | Annotated[list[Text], Tag("list"), Field(fail_fast=True)],
    _STRING_OR_BLOCKS,
]


class UserTurn(Lenient):
    role: Literal["user"]
    content: Annotated[
        Annotated[str, Tag("string")]
        | Annotated[list[Annotated[UserBlock, Field(discriminator="type")]], Tag("list"), Field(fail_fast=True)],
        _STRING_OR_BLOCKS,
    ]


class AssistantTurn(Lenient):
    role: Literal["assistant"]
    content: Annotated[
        Annotated[str, Tag("string")]
        | Annotated[list[Annotated[AssistantBlock, Field(discriminator="type")]], Tag("list"), Field(fail_fast=True)],
        _STRING_OR_BLOCKS,
    ]


class SystemTurn(Lenient):
    """A system prompt between turns stays where it is."""

    role: Literal["system"]
    content: SystemContent


Turn = UserTurn | AssistantTurn | SystemTurn


class Tool(Lenient):
    """A tool of the client's: there at once, and called by the model. Anthropic's server tools have another `type`."""

    type: Literal["custom"] | None = None
    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    defer_loading: Literal[False] | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    input_examples: Annotated[None, Field(description="No chat template shows them")] = None


class ToolChoice(Lenient):
    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool | None = None


class NamedToolChoice(Lenient):
    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(Lenient):
    """Whether the model thinks, for templates that have a switch. `budget_tokens` is taken as a hint."""

    type: Literal["enabled", "disabled", "adaptive"]
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Lenient):
    """The answer's text is JSON of this schema."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Shape):
    effort: Annotated[
        Literal["low", "medium", "high", "xhigh", "max"] | None,
        Field(description="For templates that have such a dial"),
    ] = None
    format: OutputFormat | None = None


class Metadata(Lenient):
    user_id: str | None = None


class CountTokensRequest(Shape):
    """POST /v1/messages/count_tokens"""

    model: Annotated[str, Field(min_length=1)]
    messages: Annotated[list[Annotated[Turn, Field(discriminator="role")]], Field(min_length=1, fail_fast=True)]
    system: SystemContent | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = None
    tool_choice: Annotated[ToolChoice | NamedToolChoice, Field(discriminator="type")] | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: Annotated[OutputFormat | None, Field(description="The older name of output_config.format")] = None
    cache_control: dict[str, Any] | None = None


class MessagesRequest(CountTokensRequest):
    """POST /v1/messages"""

    max_tokens: TokenLimit
    stream: bool | None = None
    temperature: Annotated[Finite, Field(ge=0, le=1)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=INT32_MAX)] | None = None
    stop_sequences: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)] | None = None
    # Who asks and how it is billed: accepted, and no answer depends on them.
    metadata: Metadata | None = None
    service_tier: str | None = None
    inference_geo: str | None = None


class TokenCount(BaseModel):
    """The answer of /v1/messages/count_tokens"""

    input_tokens: int


class OutputTokensDetails(BaseModel):
    thinking_tokens: int


class Usage(BaseModel):
    """As the dialect has it, the two kinds of input add up to the prompt. A stream begins before it is known what was
    cached: there `input_tokens` is the whole prompt, and the last event's usage, which counts, divides it."""

    input_tokens: int  # that were not cached
    cache_read_input_tokens: int = 0
    output_tokens: int
    output_tokens_details: OutputTokensDetails | None = LeftOut  # where the model has reasoned


class TextBlock(BaseModel):
    type: Literal["text"] = "text"
    text: str = ""


class ThinkingBlock(BaseModel):
    type: Literal["thinking"] = "thinking"
    thinking: str = ""
    signature: str = ""


class ToolUseBlock(BaseModel):
    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any] = {}


AnswerBlock = TextBlock | ThinkingBlock | ToolUseBlock


class Message(BaseModel):
    """The answer of /v1/messages"""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[AnswerBlock] = []
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    usage: Usage


class MessageStart(BaseModel):
    type: Literal["message_start"] = "message_start"
    message: Message


class Ping(BaseModel):
    """Sent while there is nothing to say."""

    type: Literal["ping"] = "ping"


class ContentBlockStart(BaseModel):
    type: Literal["content_block_start"] = "content_block_start"
    index: int
    content_block: AnswerBlock


class TextDelta(BaseModel):
    type: Literal["text_delta"] = "text_delta"
    text: str


class ThinkingDelta(BaseModel):
    type: Literal["thinking_delta"] = "thinking_delta"
    thinking: str


class SignatureDelta(BaseModel):
    type: Literal["signature_delta"] = "signature_delta"
    signature: str


class InputJsonDelta(BaseModel):
    type: Literal["input_json_delta"] = "input_json_delta"
    partial_json: str


class ContentBlockDelta(BaseModel):
    type: Literal["content_block_delta"] = "content_block_delta"
    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class ContentBlockStop(BaseModel):
    type: Literal["content_block_stop"] = "content_block_stop"
    index: int


class Stopped(BaseModel):
    stop_reason: StopReason
    stop_sequence: str | None = None


class MessageDelta(BaseModel):
    type: Literal["message_delta"] = "message_delta"
    delta: Stopped
    usage: Usage


class MessageStop(BaseModel):
    type: Literal["message_stop"] = "message_stop"
