"""From a Generation to what the engine is asked: token ids, limits, sampling.

Owns: everything that can refuse a request, so that refusal comes before headers (case S10). Does not own: running
it (answer.py). Called by: api.
"""

from __future__ import annotations

import array
import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from cortex_contracts.inventory.clients import PriorityClass
from cortex_contracts.wire.errors import InvalidParameter, UnsupportedParameter
from cortex_dialects.generation import ChatPrompt, Generation, Prompt, TextPrompt, TokenPrompt
from cortex_neuron.inference import admission
from cortex_neuron.inference.admission import Capacity
from cortex_neuron.protocol.frames import SamplingParams, Submit
from cortex_neuron.residency.group_serving import GroupServing
from cortex_neuron.residency.resident import Resident
from cortex_neuron.text import constraint, sampling
from cortex_neuron.text.choice import Choice
from cortex_neuron.text.constraint import Binding

# Below this many characters tokenising takes less than handing it to a thread and back.
_INLINE_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that can be submitted."""

    generation: Generation
    serving: GroupServing
    prompts: tuple[tuple[int, ...], ...]
    submissions: tuple[Submit, ...]

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    def choices(self) -> list[Choice]:
        """A fresh pipeline for every choice."""
        generation = self.generation
        return [
            Choice(
                index,
                self.serving.text,
                self.prompts[index // generation.n],
                stop=generation.stop,
                chat=isinstance(generation.prompts[index // generation.n], ChatPrompt),
                num_top=generation.logprobs,
                tool_use=generation.tool_use,
            )
            for index in range(generation.num_choices)
        ]

    def echoes(self) -> list[str]:
        """The prompt of every choice as text, where the request asks to repeat it."""
        generation = self.generation
        if not generation.echo:
            return [""] * generation.num_choices
        texts = [
            prompt.text if isinstance(prompt, TextPrompt) else self.serving.text.decode(tokens)
            for prompt, tokens in zip(generation.prompts, self.prompts, strict=True)
        ]
        return [text for text in texts for _ in range(generation.n)]


@contextmanager
def seated(generation: Generation, resident: Resident, seats: int) -> Iterator[None]:
    """Hold the request's seats, of the `seats` there are, from before it is tokenised to its end. Raises QueueFull."""
    admission.check_seats(generation.num_choices, resident.seats_taken, seats)
    with resident.seats(generation.num_choices):
        yield


async def prepare(generation: Generation, serving: GroupServing, priority: PriorityClass = "normal") -> Prepared:
    """Tokenise, resolve, judge. Raises what the client is told."""
    if generation.echo and generation.logprobs is not None:
        raise UnsupportedParameter("logprobs of an echoed prompt are not supported", param="echo")
    prompts = await encode(generation, serving)
    _check_tools(generation, serving)
    loaded = serving.loaded
    capacity = Capacity(loaded.context, loaded.block_size, loaded.kv_blocks)
    first = generation.prompts[0]
    param = first.place if isinstance(first, ChatPrompt) else "prompt"
    limits = admission.max_tokens([len(prompt) for prompt in prompts], generation.max_tokens, capacity, param)
    bindings = await _bindings(generation, serving, prompts)
    submissions = _submissions(generation, serving, prompts, limits, priority, bindings)
    return Prepared(generation, serving, prompts, tuple(submissions))


def _check_tools(generation: Generation, serving: GroupServing) -> None:
    """Calls that nobody can tell from text would be a silent answer without tools (case W4)."""
    if generation.tool_use is not None and serving.text.tool_format is None:
        raise UnsupportedParameter(
            "tools: how this model writes calls is not known; its tool_parser in the inventory says so", param="tools"
        )


async def encode(generation: Generation, serving: GroupServing) -> tuple[tuple[int, ...], ...]:
    """The token ids of each prompt; long ones are worked on in a thread. Raises TemplateRenderFailed."""
    work = partial(_encode, generation, serving)
    prompts = work() if _is_short(generation) else await asyncio.to_thread(work)
    if not all(prompts):
        raise InvalidParameter("the prompt has no tokens", param="prompt")
    return prompts


def _encode(generation: Generation, serving: GroupServing) -> tuple[tuple[int, ...], ...]:
    return tuple(serving.text.encode(prompt) for prompt in generation.prompts)


def _is_short(generation: Generation) -> bool:
    return sum(map(_characters, generation.prompts)) < _INLINE_CHARACTERS


def _characters(prompt: Prompt) -> int:
    match prompt:
        case ChatPrompt(tools=()):
            return sum(len(message["content"]) for message in prompt.messages)
        case ChatPrompt():
            return _INLINE_CHARACTERS
        case TextPrompt():
            return len(prompt.text)
        case TokenPrompt():
            return 0


async def _bindings(
    generation: Generation, serving: GroupServing, prompts: tuple[tuple[int, ...], ...]
) -> list[Binding | None]:
    """What the answers to each prompt must keep to. Raises InvalidParameter."""
    form, use = generation.answer_format, generation.tool_use
    if form is None and use is None:
        return [None] * len(prompts)
    chats = [isinstance(prompt, ChatPrompt) for prompt in generation.prompts]

    def work() -> list[Binding | None]:
        pairs = zip(prompts, chats, strict=True)
        return [constraint.binding(serving.text, prompt, form, use, chat=chat) for prompt, chat in pairs]

    return await asyncio.to_thread(work)


def _submissions(
    generation: Generation,
    serving: GroupServing,
    prompts: tuple[tuple[int, ...], ...],
    limits: list[int],
    priority: PriorityClass,
    bindings: list[Binding | None],
) -> list[Submit]:
    params = sampling.resolve(generation.sampling, serving.text.generation_config)
    _check_bias(params, serving.loaded.vocab_size)
    return [
        Submit(
            id=0,  # the group gives it
            prompt=_int32(prompt),
            max_tokens=limit,
            sampling=sampling.of_choice(params, k),
            ignore_eos=generation.ignore_eos,
            logprobs=generation.logprobs,
            priority=priority,
            grammar=None if binding is None else binding.grammar,
            opening=None if binding is None else binding.opening,
        )
        for prompt, limit, binding in zip(prompts, limits, bindings, strict=True)
        for k in range(generation.n)
    ]


def _check_bias(params: SamplingParams, vocab_size: int) -> None:
    strange = [token for token in params.logit_bias if not 0 <= token < vocab_size]
    if strange:
        raise InvalidParameter(
            f"logit_bias: token {strange[0]} is outside of the vocabulary of {vocab_size}", param="logit_bias"
        )


def _int32(tokens: tuple[int, ...]) -> bytes:
    words = array.array("i", tokens)
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()
