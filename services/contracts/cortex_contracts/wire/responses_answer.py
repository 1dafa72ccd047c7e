"""OpenAI's responses: what is answered, whole and as the events of a stream.

Owns: the shapes. `sequence_number` is the last field of each event: see cortex_dialects.projectors.frame. Called by:
dialects, and the services' OpenAPI documents.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from cortex_contracts.wire.openai import ChatTokenLogprob
from cortex_contracts.wire.shape import LeftOut

FailureCode = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
Status = Literal["in_progress", "completed", "incomplete"]


class OutputTextPart(BaseModel):
    type: Literal["output_text"] = "output_text"
    text: str = ""
    annotations: list[Any] = []
    logprobs: list[ChatTokenLogprob] = []


class ReasoningPart(BaseModel):
    type: Literal["reasoning_text"] = "reasoning_text"
    text: str = ""


class OutputMessage(BaseModel):
    id: str
    type: Literal["message"] = "message"
    status: Status = "in_progress"
    role: Literal["assistant"] = "assistant"
    content: list[OutputTextPart] = []


class OutputReasoning(BaseModel):
    """The model's thoughts, whole. Nobody has made a summary of them."""

    id: str
    type: Literal["reasoning"] = "reasoning"
    status: Status = "in_progress"
    summary: list[Any] = []
    content: list[ReasoningPart] = []


class OutputCall(BaseModel):
    id: str
    type: Literal["function_call"] = "function_call"
    status: Status = "in_progress"
    call_id: str
    name: str
    arguments: str = ""


OutputItem = OutputMessage | OutputReasoning | OutputCall


class InputTokensDetails(BaseModel):
    cached_tokens: int = 0
    cache_write_tokens: Literal[0] = 0  # which OpenAI bills; nothing is billed here


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int = 0


class ResponsesUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class Incomplete(BaseModel):
    reason: Literal["max_output_tokens", "content_filter"]


class ResponseFailure(BaseModel):
    code: FailureCode
    message: str


class Answered(BaseModel):
    """What an answer says of itself."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"] = "in_progress"
    error: ResponseFailure | None = None
    incomplete_details: Incomplete | None = None
    model: str
    output: list[OutputItem] = []
    usage: ResponsesUsage | None = None


class Repeated(BaseModel):
    """What an answer says of its request. Null is what nobody asked for: the model's own settings decide."""

    model_config = ConfigDict(frozen=True)
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, Any] = {}
    parallel_tool_calls: bool = True
    prompt_cache_key: str | None = None
    reasoning: dict[str, Any] = {"effort": None, "summary": None}
    safety_identifier: str | None = None
    temperature: float | None = None
    text: dict[str, Any] = {"format": {"type": "text"}}
    tool_choice: str | dict[str, Any] = "auto"
    tools: list[dict[str, Any]] = []
    top_logprobs: int = 0
    top_p: float | None = None
    user: str | None = None


class Response(Repeated, Answered):
    """The answer of /v1/responses"""

    # What is offered elsewhere, and is not done here.
    background: Literal[False] = False
    previous_response_id: None = None
    service_tier: None = None
    store: Literal[False] = False
    truncation: Literal["disabled"] = "disabled"


class InputTokens(BaseModel):
    """The answer of /v1/responses/input_tokens"""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


class Lifecycle(BaseModel):
    type: Literal[
        "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
    ]
    response: Response
    sequence_number: int


class ItemEvent(BaseModel):
    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem
    sequence_number: int


class PartEvent(BaseModel):
    type: Literal["response.content_part.added", "response.content_part.done"]
    item_id: str
    output_index: int
    content_index: Literal[0] = 0
    part: OutputTextPart | ReasoningPart
    sequence_number: int


class DeltaEvent(BaseModel):
    """More of an item. Calls have no parts, and only text has log-probabilities: else those are left out."""

    type: Literal[
        "response.output_text.delta", "response.reasoning_text.delta", "response.function_call_arguments.delta"
    ]
    item_id: str
    output_index: int
    content_index: Literal[0] | None = LeftOut
    delta: str
    logprobs: list[ChatTokenLogprob] | None = LeftOut
    sequence_number: int


class TextDone(BaseModel):
    """All of a text, or of thoughts."""

    type: Literal["response.output_text.done", "response.reasoning_text.done"]
    item_id: str
    output_index: int
    content_index: Literal[0] = 0
    text: str
    logprobs: list[ChatTokenLogprob] | None = LeftOut
    sequence_number: int


class ArgumentsDone(BaseModel):
    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    item_id: str
    output_index: int
    name: str
    arguments: str
    sequence_number: int
