"""What the events of each dialect's streams hold.

Owns: which shapes may come in which stream. Does not own: their order, or the bytes around them (cortex_dialects).
Called by: the services' OpenAPI documents.
"""

from __future__ import annotations

from cortex_contracts.wire import anthropic, openai, responses_answer
from cortex_contracts.wire.errors import AnthropicErrorBody, OpenAIErrorBody, ResponsesErrorEvent
from cortex_contracts.wire.openapi import EventStream

DONE = "[DONE]"

CHAT = EventStream((openai.ChatChunk, OpenAIErrorBody), last=DONE)
COMPLETION = EventStream((openai.Completion, OpenAIErrorBody), last=DONE)
MESSAGES = EventStream(
    (
        anthropic.MessageStart,
        anthropic.Ping,
        anthropic.ContentBlockStart,
        anthropic.ContentBlockDelta,
        anthropic.ContentBlockStop,
        anthropic.MessageDelta,
        anthropic.MessageStop,
        AnthropicErrorBody,
    )
)
RESPONSES = EventStream(
    (
        responses_answer.Lifecycle,
        responses_answer.ItemEvent,
        responses_answer.PartEvent,
        responses_answer.DeltaEvent,
        responses_answer.TextDone,
        responses_answer.ArgumentsDone,
        ResponsesErrorEvent,
        OpenAIErrorBody,
    )
)
