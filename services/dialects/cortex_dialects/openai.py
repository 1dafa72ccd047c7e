"""OpenAI's requests as Generations.

Owns: what each parameter of /v1/chat/completions and /v1/completions comes to. Does not own: their shapes and ranges
(cortex_contracts.wire.openai), what is refused (unsupported.py), defaults (the neuron's). Called by: the neuron, and
anthropic.py with a translated request.
"""

from __future__ import annotations

from typing import Any

from cortex_contracts.wire.errors import InvalidParameter
from cortex_contracts.wire.openai import ChatRequest, CompletionRequest, GenerationRequest
from cortex_dialects import unsupported
from cortex_dialects.answer_format import answer_format
from cortex_dialects.chat_messages import template_messages
from cortex_dialects.generation import ChatPrompt, Generation, Prompt, Sampling, TextPrompt, TokenPrompt, ToolUse
from cortex_dialects.json_body import parse_object
from cortex_dialects.tool_use import offered_names, tool_use
from cortex_dialects.validation import validate


def parse_chat(body: bytes) -> Generation:
    """The body of /v1/chat/completions. Raises InvalidRequest's kin, and nothing else, for any bytes."""
    return read_chat(parse_object(body))


def read_chat(body: dict[str, Any]) -> Generation:
    """A chat request that is parsed already."""
    request = validate(ChatRequest, body, unsupported.CHAT)
    if request.top_logprobs and not request.logprobs:
        raise InvalidParameter("top_logprobs: needs logprobs to be true", param="top_logprobs")
    offered = offered_names(request)
    tools = tuple(tool for tool in body.get("tools") or () if tool["function"]["name"] in offered)
    prompt = ChatPrompt(template_messages(request.messages), tools, _template_kwargs(request))
    max_tokens = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return _generation(request, (prompt,), max_tokens, logprobs, tools=tool_use(request))


def _template_kwargs(request: ChatRequest) -> dict[str, Any]:
    """Variables for the template. Of those that switch thinking, a template knows one, or none."""
    effort = request.reasoning_effort
    kwargs: dict[str, Any] = {} if effort is None else {"reasoning_effort": effort, "enable_thinking": effort != "none"}
    kwargs |= request.chat_template_kwargs or {}
    if "enable_thinking" in kwargs:
        kwargs.setdefault("thinking", kwargs["enable_thinking"])
    return kwargs


def parse_completion(body: bytes) -> Generation:
    """The body of /v1/completions. Raises InvalidRequest's kin, and nothing else, for any bytes."""
    request = validate(CompletionRequest, parse_object(body), unsupported.COMPLETION)
    prompts = text_prompts(request.prompt)
    return _generation(request, prompts, request.max_tokens, request.logprobs, echo=bool(request.echo))


def text_prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> tuple[TextPrompt | TokenPrompt, ...]:
    """One text or several, in letters or in tokens."""
    if isinstance(prompt, str):
        return (TextPrompt(prompt),)
    if isinstance(prompt[0], int):
        return (TokenPrompt(tuple(prompt)),)
    return tuple(TextPrompt(each) if isinstance(each, str) else TokenPrompt(tuple(each)) for each in prompt)


def _generation(
    request: GenerationRequest,
    prompts: tuple[Prompt, ...],
    max_tokens: int | None,
    logprobs: int | None,
    *,
    echo: bool = False,
    tools: ToolUse | None = None,
) -> Generation:
    options = request.stream_options
    if options is not None and not request.stream:
        raise InvalidParameter("stream_options: needs stream to be true", param="stream_options")
    return Generation(
        model=request.model,
        prompts=prompts,
        sampling=_sampling(request),
        max_tokens=max_tokens,
        n=request.n or 1,
        stop=(request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ()),
        ignore_eos=bool(request.ignore_eos),
        logprobs=logprobs,
        stream=bool(request.stream),
        include_usage=bool(options and options.include_usage),
        echo=echo,
        return_token_ids=bool(request.return_token_ids),
        user=request.user,
        tool_use=tools,
        answer_format=answer_format(request),
    )


def _sampling(request: GenerationRequest) -> Sampling:
    return Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        seed=request.seed,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias={int(token): bias for token, bias in (request.logit_bias or {}).items()},
    )
