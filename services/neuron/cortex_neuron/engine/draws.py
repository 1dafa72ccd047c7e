"""The tokens that a step gives: one a sequence, and one more for each draft that turned out to be right.

Owns: what of a draft is kept, and whether a token ends its sequence. Does not own: the draw itself (engine.sampler), or
where drafts come from (engine.prompt_lookup). Called by: engine.flight, once a step.

A sequence with drafts has a row of logits after its last token and after each draft. It draws from one after the other,
each as if it came in a step of its own: with the penalties, the grammar and the random numbers that what it has been
given by then makes. While what it draws is the very token that was drafted, the next row is the one that it would have
computed. So drafts change how many steps an answer takes, and nothing else of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from itertools import accumulate

import msgspec
from torch import Tensor

from cortex_neuron.engine.failures import Verdict
from cortex_neuron.engine.sampler import Drawn, NotFinite, sample
from cortex_neuron.engine.seats import Work
from cortex_neuron.engine.sequence import Sequence
from cortex_neuron.protocol.frames import TokenLogprobs


class Given(msgspec.Struct, gc=False):
    """What a step gave one sequence: tokens, and then how it ended, if it did.

    Each step makes one for every sequence: so it is small, and none that the garbage collector would look through.
    """

    tokens: list[int]
    logprobs: list[TokenLogprobs] | None = None
    finish: str | None = None
    opened_at: int | None = None  # the token with which the sequence's grammar has begun to bind it
    fault: NotFinite | Verdict | None = None

    @property
    def accepted(self) -> int:
        """Drafts that saved a step each."""
        return max(0, len(self.tokens) - 1)


def give(drawn: Iterable[Drawn | NotFinite | Verdict], sequences: Iterable[Sequence], eos: Set[int]) -> list[Given]:
    """What each of these is given by what was drawn for it, its token appended to it."""
    return [_take(Given([]), one, each, eos) for one, each in zip(sequences, drawn, strict=True)]


def give_by_rounds(logits: Tensor, work: Work, eos: Set[int]) -> list[Given]:
    """What each of `work.wanted` is given where some have drafts; logits [rows, vocab] as the work orders them."""
    given = [Given([]) for _ in work.wanted]
    going = list(range(len(given)))
    first_rows = list(accumulate((1 + len(draft) for draft in work.drafts), initial=0))
    num_round = 0
    while going:
        rows = logits[[first_rows[i] + num_round for i in going]]
        for i, drawn in zip(going, sample(rows, [work.wanted[i] for i in going]), strict=True):
            _take(given[i], work.wanted[i], drawn, eos)
        going = [i for i in going if _goes_on(given[i], work.drafts[i], num_round)]
        num_round += 1
    return given


def _goes_on(given: Given, draft: list[int], num_round: int) -> bool:
    """Whether the next row is of a text that has come about."""
    ended = given.finish is not None or given.fault is not None
    return not ended and num_round < len(draft) and given.tokens[-1] == draft[num_round]


def _take(given: Given, sequence: Sequence, drawn: Drawn | NotFinite | Verdict, eos: Set[int]) -> Given:
    if not isinstance(drawn, Drawn):
        given.fault = drawn
        return given
    token, constraint = drawn.token, sequence.constraint
    length = sequence.append(token)
    if constraint is not None and constraint.has_opened:
        given.opened_at = len(given.tokens)
    given.tokens.append(token)
    if drawn.logprobs is not None:
        given.logprobs = [*(given.logprobs or ()), drawn.logprobs]
    if (token in eos and not sequence.ignore_eos) or (constraint is not None and constraint.ended):
        given.finish = "stop"
    elif length >= sequence.max_length:
        given.finish = "length"
    return given
