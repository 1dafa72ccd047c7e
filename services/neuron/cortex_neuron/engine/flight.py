"""One step on its way: given to the runner, and not yet given out.

Owns: what is known of it at each point of the way, and the failure that ends it. Does not own: when the next step
starts (engine.engine), or the tokens (engine.sampler, engine.draws). Called by: engine.engine.
"""

from __future__ import annotations

from collections.abc import Set

from torch import Tensor

from cortex_neuron.engine.draws import Given, give, give_by_rounds
from cortex_neuron.engine.failures import Verdict
from cortex_neuron.engine.sampler import Draw
from cortex_neuron.engine.seats import Work
from cortex_neuron.engine.sequence import Sequence, State
from cortex_neuron.layers.transfer import rows_of


class Flight:
    """`logits` are the runner's, which a GPU may still have to compute; or there is a `fault` in their place."""

    def __init__(self, work: Work, logits: Tensor | Verdict) -> None:
        self.work = work
        self.fault = logits if isinstance(logits, Verdict) else None
        self._logits = None if isinstance(logits, Verdict) else logits
        self._void: set[Sequence] = set()
        self._draw: Draw | None = None
        self._wanted: list[Sequence] = []

    @property
    def alive(self) -> list[Sequence]:
        """The sequences that it is still of use to."""
        return [each for each in self.work.sequences if self.counts_for(each)]

    def counts_for(self, sequence: Sequence) -> bool:
        """Whether it is still of use to this one."""
        return sequence.state is State.RUNNING and sequence not in self._void

    def leave_out(self, sequence: Sequence) -> None:
        """It goes on otherwise."""
        self._void.add(sequence)

    def draw(self) -> list[Sequence]:
        """Have a token drawn for each that it is of use to; these, in the order of `drawn`."""
        assert self._logits is not None, "it has not failed"
        rows = [i for i, each in enumerate(self.work.wanted) if self.counts_for(each)]
        self._wanted = [self.work.wanted[i] for i in rows]
        if rows:
            self._draw = Draw(rows_of(self._logits, rows), self._wanted)
        return self._wanted

    @property
    def drawn(self) -> Tensor | None:
        """[sequences] tokens, where the model is; None if there are none."""
        return self._draw.tokens if self._draw is not None else None

    def read(self, eos: Set[int]) -> tuple[list[Sequence], list[Given]]:
        """The sequences that are given something, and what that is: waits for the device."""
        if self.work.drafts:
            assert self._logits is not None, "it has not failed"
            return self.work.wanted, give_by_rounds(self._logits, self.work, eos)
        if self._draw is None:
            return [], []
        told = [(one, each) for one, each in zip(self._wanted, self._draw.read(), strict=True) if self.counts_for(one)]
        sequences = [one for one, _ in told]
        return sequences, give((each for _, each in told), sequences, eos)

    @property
    def corrected(self) -> list[Sequence]:
        """Once it has been read: those whose token is another than `drawn` says."""
        return [self._wanted[row] for row in self._draw.corrected] if self._draw is not None else []
