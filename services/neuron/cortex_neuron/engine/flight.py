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
from cortex_neuron.engine.sequence import Sequence
from cortex_neuron.layers.transfer import rows_of


class Flight:
    """`logits` are the runner's, which a GPU may still have to compute; or there is a `fault` in their place."""

    def __init__(self, work: Work, logits: Tensor | Verdict) -> None:
        self.work = work
        self.fault = logits if isinstance(logits, Verdict) else None
        self._logits = None if isinstance(logits, Verdict) else logits
        self._left_out: set[Sequence] = set()
        self._draw: Draw | None = None
        self._wanted: list[Sequence] = []

    def leave_out(self, sequence: Sequence) -> None:
        """It has ended, or goes on otherwise: what comes of this step is nothing to it."""
        self._left_out.add(sequence)

    def counts_for(self, sequence: Sequence) -> bool:
        """Whether something may come of it for this one."""
        return sequence not in self._left_out

    def still(self, sequences: list[Sequence]) -> list[Sequence]:
        """Those of them that it counts for."""
        return [each for each in sequences if self.counts_for(each)] if self._left_out else sequences

    def draw(self) -> list[Sequence]:
        """Have a token drawn for each that wants one; these, in the order of `drawn`."""
        assert self._logits is not None, "it has not failed"
        self._wanted = self.still(self.work.wanted)
        if self._wanted:
            rows = [i for i, each in enumerate(self.work.wanted) if self.counts_for(each)] if self._left_out else None
            self._draw = Draw(self._logits if rows is None else rows_of(self._logits, rows), self._wanted)
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
        told = self._draw.read()
        if self._left_out:
            told = [each for each, one in zip(told, self._wanted, strict=True) if self.counts_for(one)]
        sequences = self.still(self._wanted)
        return sequences, give(told, sequences, eos)

    @property
    def corrected(self) -> list[Sequence]:
        """Once it has been read: those whose token is another than `drawn` says."""
        return [self._wanted[row] for row in self._draw.corrected] if self._draw is not None else []
