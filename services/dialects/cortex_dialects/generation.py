"""A request for text, whatever dialect it came in: what the neuron's engine side understands.

Owns: Generation and its parts. `None` means "the client did not say": the neuron then takes the model's
generation_config.json, then DEFAULTS. Made by: openai.py and anthropic.py. Read by: the neuron.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from cortex_contracts.wire.responses_answer import Repeated


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Messages for the model's chat template, in OpenAI's shape with tool arguments as objects (case W3)."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    place: str = "messages"  # where the client gave them


@dataclass(frozen=True, slots=True)
class TextPrompt:
    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    token_ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Names and ranges are OpenAI's, vLLM's where OpenAI has none."""

    temperature: float | None = None  # 0 is greedy
    top_p: float | None = None
    top_k: int | None = None  # 0 or -1 is off
    min_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """A tool that may be called. `place` is where the client gave the JSON Schema of its arguments."""

    name: str
    schema: dict[str, Any]
    place: str
    strict: bool = False  # its arguments keep to the schema, whether its call is forced or not


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Which tools the answer may call."""

    tools: tuple[ToolSchema, ...]
    forced: bool = False  # the answer is a call of one of them, and nothing else
    parallel: bool = True  # it may be several


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """What the answer's text must be. `place` is where the client said so."""

    kind: Literal["json_schema", "regex", "choice", "grammar"]
    value: Any  # a JSON Schema, a pattern, the choices, or a grammar in Lark's or GBNF's words
    place: str


@dataclass(frozen=True, slots=True)
class Generation:
    """One request. Choice `index` counts prompts, then `n`: prompt p's k-th answer is p * n + k."""

    model: str
    prompts: tuple[Prompt, ...]
    sampling: Sampling = Sampling()
    max_tokens: int | None = None  # None: as many as the context leaves
    n: int = 1
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None  # None: off; k: the chosen token's and the k best
    stream: bool = False
    include_usage: bool = False
    echo: bool = False  # the prompt is the first text of each choice: the neuron's first TextDelta of it
    return_token_ids: bool = False
    user: str | None = None
    tool_use: ToolUse | None = None  # None: what looks like a call is text
    answer_format: AnswerFormat | None = None
    show_reasoning: bool = True  # else its place is shown, and nothing of it
    repeated: Repeated | None = None  # what the answer tells again of a request for a response

    @property
    def num_choices(self) -> int:
        return len(self.prompts) * self.n
