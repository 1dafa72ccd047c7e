"""One sequence in the engine: its tokens, its blocks, its state.

Owns: the state table and the counters. Called by: engine.engine, which is the only one to change a sequence.
"""

from __future__ import annotations

import array
import sys
from dataclasses import dataclass, field
from enum import StrEnum

import torch

from cortex_neuron.engine.grammar import Constraint
from cortex_neuron.protocol.failures import BadRequest
from cortex_neuron.protocol.frames import SamplingParams, Submit
from cortex_neuron.protocol.priority import turn

_RANGES = {"temperature": (0, 1000), "top_p": (0, 1), "min_p": (0, 1), "repetition_penalty": (1e-3, 1e3)}


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


@dataclass(slots=True)
class Sequence:
    """`tokens` are the prompt's and those generated; the first `computed` of them are in the cache."""

    id: int
    tokens: list[int]
    prompt_length: int
    max_length: int  # tokens; generation ends when it is reached
    sampling: SamplingParams
    generator: torch.Generator
    ignore_eos: bool
    num_logprobs: int | None
    submitted_s: float
    turn: float  # its place among those that wait; the least is next
    constraint: Constraint | None = None  # its grammar, and how far it has come in it
    started_s: float | None = None
    state: State = State.WAITING
    computed: int = 0
    table: list[int] = field(default_factory=list)  # block ids

    def move(self, new: State) -> None:
        """Raises IllegalTransition."""
        if new not in TRANSITIONS[self.state]:
            raise IllegalTransition(self.id, self.state, new)
        self.state = new

    @property
    def output(self) -> list[int]:
        """The tokens generated so far."""
        return self.tokens[self.prompt_length :]


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
    return Sequence(
        id=frame.id,
        tokens=prompt,
        prompt_length=len(prompt),
        max_length=min(len(prompt) + frame.max_tokens, context),
        sampling=frame.sampling,
        generator=generator,
        ignore_eos=frame.ignore_eos,
        num_logprobs=frame.logprobs,
        submitted_s=now_s,
        turn=turn(frame.priority, now_s),
        constraint=constraint,
    )


def _token_ids(data: bytes) -> list[int]:
    if len(data) % 4:
        raise BadRequest(f"prompt of {len(data)} bytes is not a row of int32")
    ids = array.array("i", data)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tolist()


def _check(frame: Submit, prompt: list[int], context: int, vocab_size: int) -> None:
    if not prompt:
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
    for name, ids in (("prompt", prompt), ("logit_bias", list(frame.sampling.logit_bias))):
        strange = next((i for i in ids if not 0 <= i < vocab_size), None)
        if strange is not None:
            raise BadRequest(f"{name} has token id {strange}, outside of the vocabulary of {vocab_size}")
