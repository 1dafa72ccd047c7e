"""OpenAI's responses, as far as cortex honours them: what is asked.

Owns: the shapes and ranges of requests. Does not own: answers and events (responses_answer.py beside it), parameters
that are known and not honoured (cortex_dialects.unsupported), what a request comes to (cortex_dialects.responses).
Called by: dialects, and the services' OpenAPI documents.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Tag

from cortex_contracts.wire.openai_formats import Effort, JsonObjectFormat, JsonSchema, TextFormat
from cortex_contracts.wire.shape import Finite, Lenient, Shape, TokenLimit, either


class InputText(Lenient):
    type: Literal["input_text"]
    text: str


class OutputText(Lenient):
    """What an answer said, sent back; its annotations and log-probabilities are read over."""

    type: Literal["output_text"]
    text: str


class Refusal(Lenient):
    """What a model said instead of an answer: its words, as any others."""

    type: Literal["refusal"]
    refusal: str


class InputImage(Lenient):
    type: Literal["input_image"]
    image_url: str | None = None
    detail: str | None = None
    file_id: Annotated[None, Field(description="No files are kept")] = None


Part = Annotated[InputText | OutputText | Refusal | InputImage, Field(discriminator="type")]
Content = Annotated[
    Annotated[str, Tag("string")] | Annotated[list[Part], Tag("list"), Field(fail_fast=True)],
    either("a string or a list of parts"),
]


class InputMessage(Lenient):
    """A turn, or one of an answer's; the latter's id and status are read over."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Content


class FunctionCall(Lenient):
    type: Literal["function_call"]
    call_id: str
    name: Annotated[str, Field(min_length=1)]
    arguments: str


class FunctionCallOutput(Lenient):
    """`name` is the tool's, for templates that show it."""

    type: Literal["function_call_output"]
    call_id: str | None = None
    name: str | None = None
    output: Content


class Thought(Lenient):
    type: Literal["reasoning_text", "summary_text"]
    text: str


class Reasoning(Lenient):
    """Thoughts in `content`, else what is left of them in `summary`; encrypted ones cannot be read here."""

    type: Literal["reasoning"]
    content: Annotated[list[Thought], Field(fail_fast=True)] | None = None
    summary: Annotated[list[Thought], Field(fail_fast=True)] | None = None


class ItemReference(Lenient):
    """Refused: nothing is kept that could be referred to."""

    type: Literal["item_reference"] | None = None
    id: str


class OtherItem(Shape):
    """An item of another kind; tolerated where it has nothing to say to the model."""

    model_config = ConfigDict(extra="allow")
    type: str


_KINDS = frozenset({"message", "function_call", "function_call_output", "reasoning", "item_reference"})


def _item_kind(value: object) -> str | None:
    if not isinstance(value, dict):
        return None
    kind = value.get("type")
    if kind is None:
        return "message" if "role" in value else "item_reference" if "id" in value else None
    if not isinstance(kind, str):
        return None
    return kind if kind in _KINDS else "other"


Item = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[Reasoning, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")]
    | Annotated[OtherItem, Tag("other")],
    either("an item: an object with a type, or with a role", _item_kind),
]
Input = Annotated[
    Annotated[str, Tag("string")] | Annotated[list[Item], Tag("list"), Field(min_length=1, fail_fast=True)],
    either("a string or a list of items"),
]


class FunctionTool(Lenient):
    """A function of the client's. It is there at once, and called by the model: what says otherwise is refused."""

    type: Literal["function"]
    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: Literal[False] | None = None
    async_: Annotated[Literal[False] | None, Field(alias="async")] = None
    allowed_callers: list[Literal["direct"]] | None = None
    output_schema: Annotated[None, Field(description="No chat template shows it")] = None


class HostedTool(Shape):
    """Refused: there is nobody here to run it."""

    model_config = ConfigDict(extra="allow")
    type: str


def _tool_kind(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return "function" if kind == "function" else "hosted" if isinstance(kind, str) else None


Tool = Annotated[
    Annotated[FunctionTool, Tag("function")] | Annotated[HostedTool, Tag("hosted")],
    either("a tool: an object with a type", _tool_kind),
]


class NamedTool(Lenient):
    """This function is to be called, or may be."""

    type: Literal["function"]
    name: Annotated[str, Field(min_length=1)]


class AllowedTools(Lenient):
    """Only these of the tools are offered."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, fail_fast=True)]


def _tool_choice_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "word"
    kind = value.get("type") if isinstance(value, dict) else None
    return "allowed" if kind == "allowed_tools" else _tool_kind(value)


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("word")]
    | Annotated[NamedTool, Tag("function")]
    | Annotated[AllowedTools, Tag("allowed")]
    | Annotated[HostedTool, Tag("hosted")],
    either("none, auto, required, a function or allowed_tools", _tool_choice_kind),
]


class JsonSchemaFormat(Lenient):
    """`strict` changes nothing: a schema is always kept to."""

    type: Literal["json_schema"]
    name: str
    description: str | None = None
    schema_: Annotated[JsonSchema, Field(alias="schema")]
    strict: bool | None = None


class TextConfig(Shape):
    format: Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningConfig(Shape):
    """How much a model thinks, for templates that have such a dial. Thoughts come whole: nobody here sums them up."""

    effort: Effort | None = None
    summary: Literal["auto"] | None = None
    generate_summary: Literal["auto"] | None = None
    context: Literal["auto"] | None = None
    mode: Literal["standard"] | None = None


class StreamOptions(Shape):
    include_obfuscation: Annotated[bool | None, Field(description="Accepted; nothing is obfuscated")] = None


LOGPROBS = "message.output_text.logprobs"
Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class InputTokensRequest(Shape):
    """POST /v1/responses/input_tokens: what makes a prompt. Null is the same as absent, everywhere."""

    model: Annotated[str, Field(min_length=1)]
    input: Input
    instructions: str | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None


class ResponsesRequest(InputTokensRequest):
    """POST /v1/responses"""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: TokenLimit | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: list[Includable] | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    # These say who asks, how it is billed or cached, or what is kept of it: accepted, and no answer depends on them.
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    user: str | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    client_metadata: dict[str, Any] | None = None
