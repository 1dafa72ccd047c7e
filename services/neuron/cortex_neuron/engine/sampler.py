"""The next token of every row.

Owns: the draw and its filters, log-probabilities, and the check that logits are finite (case T12). Does not own:
penalties (engine.penalties), or sequences, which it reads; but their grammars are told what was drawn. Called by:
engine.flight, once a step, for the rows that ended a chunk.

Meaning and order are vLLM's: logit_bias, penalties, grammar, temperature, min_p, top_k, top_p. Log-probabilities are
those of the model itself, before all that. A draw uses one uniform number of the sequence's own generator, and each row
is computed from its own parameters only, so that a seeded sequence does not depend on those it shares a batch with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cortex_neuron.engine.failures import Verdict
from cortex_neuron.engine.grammar import constrain
from cortex_neuron.engine.penalties import penalise
from cortex_neuron.engine.sequence import Sequence as Seq
from cortex_neuron.layers.transfer import Fetched, rows_of, send, upload
from cortex_neuron.protocol.frames import SamplingParams, TokenLogprobs

# Rows that filter look at their best tokens first: a sort of a whole vocabulary costs milliseconds a row on a CPU.
NUM_CANDIDATES = 1024
# Below this, logits divided by the temperature overflow; the draw has long been greedy.
MIN_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True)
class NotFinite:
    """The model's logits for a row hold NaN or infinity."""

    nan: int
    inf: int
    size: int
    kind = "non_finite_logits"

    @property
    def message(self) -> str:
        return f"{self.nan} NaN and {self.inf} infinite logits of {self.size}"


@dataclass(frozen=True, slots=True)
class Drawn:
    token: int
    logprobs: TokenLogprobs | None


def sample(logits: Tensor, sequences: Sequence[Seq]) -> list[Drawn | NotFinite | Verdict]:
    """logits [rows, vocab], a row a sequence."""
    return Draw(logits, sequences).read()


class Draw:
    """A token a row, drawn where the logits [rows, vocab] are: nothing but `read` waits for them.

    `tokens` [rows] int64 lie there, too. Once they have been read, `corrected` are the rows that were drawn again, of
    which they are wrong: those whose filters keep more than the best tokens that were looked at.
    """

    def __init__(self, logits: Tensor, sequences: Sequence[Seq]) -> None:
        # A GPU may be at the next step, which overwrites the model's logits, when these are looked at again.
        self._raw = raw = logits.to(torch.float32, copy=logits.is_cuda)
        self._sequences = sequences
        self.corrected: list[int] = []
        shaped = constrain(penalise(raw, sequences), [s.constraint for s in sequences])
        self.tokens, self._filtered = _draw(shaped, sequences)
        self._logprobs = _Logprobs.of(raw, sequences, self.tokens)
        # One pass finds the rows that are not finite; NaN and infinity survive a sum.
        parts = [self.tokens, raw.sum(-1).isfinite()]
        parts += [self._filtered.holds_all] if self._filtered is not None else []
        self._fetched = Fetched(*parts)

    def read(self) -> list[Drawn | NotFinite | Verdict]:
        """What each row came to."""
        tokens, finite, *doubts = (each.tolist() for each in self._fetched.wait())
        bad = {i: _count(self._raw[i]) for i, ok in enumerate(finite) if not (ok or self._raw[i].isfinite().all())}
        for holds_all in doubts:  # one, where there are rows that filter
            if not all(holds_all):
                self._correct(tokens, holds_all, bad)
        logprobs = self._logprobs.read() if self._logprobs is not None else {}
        return [
            bad[i] if i in bad else _kept_to(sequence, Drawn(token, logprobs.get(i)))
            for i, (sequence, token) in enumerate(zip(self._sequences, tokens, strict=True))
        ]

    def _correct(self, tokens: list[int], holds_all: list[bool], bad: Mapping[int, NotFinite]) -> None:
        """Draw again from all tokens, with the same number."""
        part = self._filtered
        assert part is not None, "its rows are those in doubt"
        doubted = [at for at, holds in enumerate(holds_all) if not holds and part.rows[at] not in bad]
        for at, token in zip(doubted, part.drawn_from_all(doubted), strict=True):
            if token != tokens[part.rows[at]]:
                tokens[part.rows[at]] = token
                self.corrected.append(part.rows[at])
        if self.corrected:
            exact = upload(np.array(tokens, np.int64), self.tokens.device)
            self._logprobs = _Logprobs.of(self._raw, self._sequences, exact)


def _kept_to(sequence: Seq, drawn: Drawn) -> Drawn | Verdict:
    """The token, told to the sequence's grammar; or that it has failed."""
    if sequence.constraint is None:
        return drawn
    if sequence.constraint.failure is None:
        sequence.constraint.accept(drawn.token)
    failure = sequence.constraint.failure
    return drawn if failure is None else Verdict("grammar_failed", failure, fatal=False)


def _count(row: Tensor) -> NotFinite:
    return NotFinite(int(row.isnan().sum()), int(row.isinf().sum()), row.numel())


def is_greedy(params: SamplingParams) -> bool:
    return params.temperature < MIN_TEMPERATURE or params.top_k == 1


def is_filtered(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1 or params.min_p > 0


# ---- the draw


def _draw(logits: Tensor, sequences: Sequence[Seq]) -> tuple[Tensor, _Filtered | None]:
    """[rows] token ids, and the rows among them that may be in doubt."""
    tokens = logits.argmax(-1)
    drawn = [i for i, s in enumerate(sequences) if not is_greedy(s.sampling)]
    filtered = [i for i in drawn if is_filtered(sequences[i].sampling)]
    plain = [i for i in drawn if not is_filtered(sequences[i].sampling)] if len(filtered) < len(drawn) else []
    if plain:
        some = [sequences[i] for i in plain]
        _put(tokens, plain, _invert(_tempered(logits, plain, some).softmax(-1), _uniform(some, logits)))
    if not filtered:
        return tokens, None
    part = _Filtered(_tempered(logits, filtered, [sequences[i] for i in filtered]), filtered, sequences)
    _put(tokens, filtered, part.tokens)
    return tokens, part


def _tempered(logits: Tensor, rows: list[int], sequences: Sequence[Seq]) -> Tensor:
    return rows_of(logits, rows) / _column(logits, sequences, lambda p: p.temperature)


def _put(tokens: Tensor, rows: list[int], values: Tensor) -> None:
    tokens.index_copy_(0, upload(np.array(rows, np.int64), tokens.device), values)


class _Filtered:
    """Rows that filter. Sorted best first, every filter keeps a prefix: a draw over the best few is exact if they hold
    that prefix, which `holds_all` [rows] says."""

    def __init__(self, logits: Tensor, rows: list[int], all_sequences: Sequence[Seq]) -> None:
        sequences = [all_sequences[i] for i in rows]
        if any(s.sampling.min_p for s in sequences):
            floor = logits.amax(-1, keepdim=True) + _column(logits, sequences, lambda p: p.min_p).log()
            logits = logits.masked_fill(logits < floor, float("-inf"))
        size = logits.shape[-1]
        self.rows = rows
        self._logits = logits
        self._top_k = _column(logits, sequences, lambda p: p.top_k if p.top_k > 0 else size)
        self._top_p = _column(logits, sequences, lambda p: p.top_p)
        self._uniform = _uniform(sequences, logits)
        values, ids = logits.topk(min(NUM_CANDIDATES, size))
        probs, self.holds_all = _filter(logits, values, self._top_k, self._top_p)
        self.tokens = ids.gather(-1, _invert(probs, self._uniform)[:, None])[:, 0]

    def drawn_from_all(self, places: list[int]) -> list[int]:
        """The tokens of the rows at these places, from a sort of the whole vocabulary."""
        logits, top_k, top_p, uniform = (
            rows_of(each, places) for each in (self._logits, self._top_k, self._top_p, self._uniform)
        )
        values, ids = torch.sort(logits, dim=-1, descending=True, stable=True)
        probs, _ = _filter(logits, values, top_k, top_p)
        tokens: list[int] = ids.gather(-1, _invert(probs, uniform)[:, None])[:, 0].tolist()
        return tokens


def _filter(logits: Tensor, values: Tensor, top_k: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities of the sorted `values` [rows, n] after top_k and top_p, and whether nothing beyond n is kept."""
    n, size = values.shape[-1], logits.shape[-1]
    rank = torch.arange(n, device=values.device)
    kept = values.masked_fill(rank >= top_k, float("-inf"))
    # top_p is a share of what top_k leaves, or else of the whole row.
    total = torch.where(top_k < size, kept.logsumexp(-1, keepdim=True), logits.logsumexp(-1, keepdim=True))
    probs = (kept - total).exp()
    before = probs.cumsum(-1) - probs
    nothing_beyond = values[:, -1:].isneginf() | (n == size)
    in_view = torch.where(top_k < size, top_k <= n, before[:, -1:] + probs[:, -1:] >= top_p)
    return probs.masked_fill(before >= top_p, 0), (in_view | nothing_beyond)[:, 0]


def _uniform(sequences: Sequence[Seq], like: Tensor) -> Tensor:
    """[rows, 1] a number of each one's own."""
    drawn = torch.stack([torch.rand(1, dtype=torch.float64, generator=s.generator) for s in sequences])
    return send(drawn, like.device)


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """The index where the running sum of weights [rows, n] passes a uniform share of the total."""
    sums = weights.cumsum(-1, dtype=torch.float64)
    total = sums[:, -1:].contiguous()
    # `right`: an index whose own weight is 0 is never met, not even by a share of 0.
    index = torch.searchsorted(sums, uniform * total, right=True)[:, 0]
    last = torch.searchsorted(sums, total)[:, 0]  # where the sum gets there: a share may be rounded up to all of it
    return torch.minimum(index, last).clamp(max=weights.shape[-1] - 1)  # no sum gets there in a row that is not finite


def _column(like: Tensor, sequences: Sequence[Seq], value: Callable[[SamplingParams], float]) -> Tensor:
    """[rows, 1] of one parameter."""
    return upload(np.array([[value(s.sampling)] for s in sequences], np.float32), like.device)


# ---- log-probabilities


@dataclass(frozen=True, slots=True)
class _Logprobs:
    """Of the rows whose sequences ask for them, on their way to the host; a row has as many of the best as `counts`."""

    counts: dict[int, int]
    fetched: Fetched

    @classmethod
    def of(cls, raw: Tensor, sequences: Sequence[Seq], tokens: Tensor) -> _Logprobs | None:
        """None where nobody asks."""
        counts = {i: s.num_logprobs for i, s in enumerate(sequences) if s.num_logprobs is not None}
        if not counts:
            return None
        rows = list(counts)
        logprobs = rows_of(raw, rows).log_softmax(-1)
        chosen = logprobs.gather(-1, rows_of(tokens, rows)[:, None])[:, 0]
        best = logprobs.topk(max(counts.values()))
        return cls(counts, Fetched(chosen, best.indices, best.values))

    def read(self) -> dict[int, TokenLogprobs]:
        """By row."""
        chosen, ids, best = (each.tolist() for each in self.fetched.wait())
        return {
            row: TokenLogprobs(chosen[at], ids[at][:count], best[at][:count])
            for at, (row, count) in enumerate(self.counts.items())
        }
