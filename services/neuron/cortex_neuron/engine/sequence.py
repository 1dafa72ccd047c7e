"""One sequence in the engine: its tokens and its state.

Owns: the state table and the tokens. Does not own: its blocks and how much of it is computed, which it has only while
it runs (engine.seats). Called by: engine.engine, which is the only one to change a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
import torch

from cortex_neuron.engine.block_pool import Trail
from cortex_neuron.engine.grammar import Constraint
from cortex_neuron.layers.batch import Ints
from cortex_neuron.protocol.failures import BadRequest
from cortex_neuron.protocol.frames import SamplingParams, Submit
from cortex_neuron.protocol.priority import turn

_RANGES = {"temperature": (0, 1000), "top_p": (0, 1), "min_p": (0, 1), "repetition_penalty": (1e-3, 1e3)}


NO_SEAT = -1


class Drafts(Protocol):
    """What guesses how a sequence goes on (engine.prompt_lookup)."""

    def propose(self, tokens: Ints, most: int) -> Ints:
        """At most `most` tokens that may come after `tokens`."""

    def learn(self, drafted: int, accepted: int) -> None:
        """So many of those that were proposed last were tried, and so many of these were right."""


class State(StrEnum):
    WAITING = "waiting"  # holds no blocks; new, or preempted and to be computed again
    RUNNING = "running"
    FINISHED = "finished"


TRANSITIONS = {
    State.WAITING: {State.RUNNING, State.FINISHED},
    State.RUNNING: {State.WAITING, State.FINISHED},
    State.FINISHED: set(),
}


class IllegalTransition(Exception):
    def __init__(self, sequence: int, old: State, new: State) -> None:
        super().__init__(f"sequence {sequence} cannot go from {old} to {new}")


@dataclass(slots=True, eq=False)
class Sequence:
    """The first `length` of `buffer` are its tokens: the prompt's, then those generated."""

    id: int
    buffer: Ints  # [max_length]
    length: int
    prompt_length: int
    max_length: int  # tokens; generation ends when it is reached
    sampling: SamplingParams
    generator: torch.Generator
    ignore_eos: bool
    num_logprobs: int | None
    submitted_s: float
    turn: float  # its place among those that wait; the least is next
    constraint: Constraint | None = None  # its grammar, and how far it has come in it
    drafts: Drafts | None = None
    started_s: float | None = None
    state: State = State.WAITING
    seat: int = NO_SEAT  # unless it runs
    cached: int | None = None  # tokens that were in the cache when it was first admitted
    trail: Trail = field(default_factory=Trail)  # what of it can be found in the cache, while it waits

    def move(self, new: State) -> None:
        """Raises IllegalTransition."""
        if new not in TRANSITIONS[self.state]:
            raise IllegalTransition(self.id, self.state, new)
        self.state = new

    @property
    def tokens(self) -> Ints:
        """All of them, as a view."""
        return self.buffer[: self.length]

    @property
    def output(self) -> Ints:
        """The tokens generated so far, as a view."""
        return self.buffer[self.prompt_length : self.length]

    def piece(self, index: int, block_size: int) -> bytes:
        """The token ids of its block `index`, which it fills."""
        return self.buffer[index * block_size : (index + 1) * block_size].tobytes()

    def append(self, token: int) -> int:
        """One more token was generated: how many there are now."""
        length = self.length
        self.buffer[length] = token
        self.length = length + 1
        return length + 1


def new_sequence(
    frame: Submit, context: int, vocab_size: int, now_s: float, constraint: Constraint | None = None
) -> Sequence:
    """A sequence as it was submitted. Raises BadRequest for what the model or the engine cannot do."""
    prompt = _token_ids(frame.prompt)
    _check(frame, prompt, context, vocab_size)
    generator = torch.Generator()
    if frame.sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(frame.sampling.seed)
    max_length = min(len(prompt) + frame.max_tokens, context)
    buffer = np.empty(max_length, np.int32)
    buffer[: len(prompt)] = prompt
    return Sequence(
        id=frame.id,
        buffer=buffer,
        length=len(prompt),
        prompt_length=len(prompt),
        max_length=max_length,
        sampling=frame.sampling,
        generator=generator,
        ignore_eos=frame.ignore_eos,
        num_logprobs=frame.logprobs,
        submitted_s=now_s,
        turn=turn(frame.priority, now_s),
        constraint=constraint,
    )


def _token_ids(data: bytes) -> Ints:
    if len(data) % 4:
        raise BadRequest(f"prompt of {len(data)} bytes is not a row of int32")
    return np.frombuffer(data, "<i4").astype(np.int32, copy=False)


def _check(frame: Submit, prompt: Ints, context: int, vocab_size: int) -> None:
    if not len(prompt):
        raise BadRequest("prompt has no tokens")
    if len(prompt) >= context:
        raise BadRequest(f"prompt has {len(prompt)} tokens, and the context of {context} leaves no room for an answer")
    if frame.max_tokens < 1:
        raise BadRequest(f"max_tokens is {frame.max_tokens}, must be at least 1")
    if frame.prompt_logprobs:
        raise BadRequest("prompt_logprobs is not supported")
    if frame.logprobs is not None and not 0 <= frame.logprobs <= vocab_size:
        raise BadRequest(f"logprobs is {frame.logprobs}, must be from 0 to {vocab_size}")
    for name, (low, high) in _RANGES.items():
        value = getattr(frame.sampling, name)
        if not low <= value <= high:  # NaN is outside, too
            raise BadRequest(f"{name} is {value}, must be from {low} to {high}")
    strange_prompt = prompt[(prompt < 0) | (prompt >= vocab_size)]
    strange_bias = [i for i in frame.sampling.logit_bias if not 0 <= i < vocab_size]
    for name, strange in (("prompt", strange_prompt), ("logit_bias", strange_bias)):
        if len(strange):
            raise BadRequest(f"{name} has token id {strange[0]}, outside of the vocabulary of {vocab_size}")
