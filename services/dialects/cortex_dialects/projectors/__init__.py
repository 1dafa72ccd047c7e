"""The event stream of one request as the bytes of its dialect, streamed or whole.

Called by: the neuron's and the gateway's handlers, which get a projector from one of these functions.
"""

from __future__ import annotations

from cortex_dialects.generation import Generation
from cortex_dialects.projectors.chat import ChatProjector
from cortex_dialects.projectors.completion import CompletionProjector
from cortex_dialects.projectors.messages import MessagesProjector
from cortex_dialects.projectors.projector import Projector
from cortex_dialects.projectors.responses import ResponsesProjector

__all__ = ["Projector", "chat_projector", "completion_projector", "messages_projector", "responses_projector"]


def chat_projector(generation: Generation, request_id: str, created: int) -> Projector:
    """For /v1/chat/completions. `created` is in seconds since 1970."""
    return ChatProjector(generation, f"chatcmpl-{request_id}", created)


def completion_projector(generation: Generation, request_id: str, created: int) -> Projector:
    """For /v1/completions. `created` is in seconds since 1970."""
    return CompletionProjector(generation, f"cmpl-{request_id}", created)


def messages_projector(generation: Generation, request_id: str, created: int, prompt_tokens: int) -> Projector:
    """For /v1/messages, whose first event already states `prompt_tokens` (0 where it is not known yet).

    `created` is there for the sake of one signature: Anthropic's messages carry no time.
    """
    return MessagesProjector(generation, f"msg_{request_id}", prompt_tokens)


def responses_projector(generation: Generation, request_id: str, created: int) -> Projector:
    """For /v1/responses. `created` is in seconds since 1970."""
    return ResponsesProjector(generation, request_id, created)
