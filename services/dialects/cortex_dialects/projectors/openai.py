"""What OpenAI's answers have in common: their name, their end, and their words for usage and log-probabilities.

Called by: chat.py, completion.py, responses.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from cortex_contracts.wire import openai as wire
from cortex_contracts.wire.errors import CortexError
from cortex_dialects import sse
from cortex_dialects.dialect import Dialect, error_event, keepalive
from cortex_dialects.events import TokenLogprob, Usage
from cortex_dialects.generation import Generation
from cortex_dialects.projectors.collected import cut_short

DONE = sse.data("[DONE]")
# JSON has no infinity; this is what OpenAI and vLLM send for a token that cannot be.
_LEAST_LOGPROB = -9999.0


class OpenAIProjector:
    """The part of a Projector that does not depend on the shape of a chunk."""

    def __init__(self, generation: Generation, answer_id: str, created: int) -> None:
        self._id, self._created, self._model = answer_id, created, generation.model
        self._num_choices = generation.num_choices
        self._include_usage = generation.include_usage
        self._with_ids = generation.return_token_ids
        self._with_logprobs = generation.logprobs is not None
        self._unfinished = set(range(self._num_choices))

    def keepalive(self) -> bytes:
        return keepalive(Dialect.OPENAI)

    def failure(self, error: CortexError) -> bytes:
        return error_event(Dialect.OPENAI, error)

    def closing(self) -> bytes:
        return self.failure(cut_short()) if self._unfinished else DONE


def usage_shape(usage: Usage) -> wire.Usage:
    """OpenAI's words for usage."""
    return wire.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=wire.PromptTokensDetails(cached_tokens=usage.cached_tokens),
        completion_tokens_details=wire.CompletionTokensDetails(reasoning_tokens=usage.reasoning_tokens)
        if usage.reasoning_tokens
        else None,
    )


def token_logprobs(tokens: Iterable[TokenLogprob]) -> list[wire.ChatTokenLogprob]:
    """OpenAI's words for tokens' log-probabilities."""
    return [
        wire.ChatTokenLogprob(**_token(token), top_logprobs=[wire.TopLogprob(**_token(top)) for top in token.top])
        for token in tokens
    ]


def _token(token: TokenLogprob) -> dict[str, object]:
    logprob = token.logprob if math.isfinite(token.logprob) else _LEAST_LOGPROB
    return {"token": token.token, "logprob": logprob, "bytes": list(token.token_bytes)}
