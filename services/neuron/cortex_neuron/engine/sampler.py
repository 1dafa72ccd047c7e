"""The next token of every row.

Owns: penalties, filters, the draw, log-probabilities, and the check that logits are finite (case T12). Does not own:
sequences, which it reads; but their grammars are told what was drawn. Called by: engine.engine, once a step, for the
rows that ended a chunk.

Meaning and order are vLLM's: logit_bias, penalties, grammar, temperature, min_p, top_k, top_p. Log-probabilities are
those of the model itself, before all that. A draw uses one uniform number of the sequence's own generator, and each row
is computed from its own parameters only, so that a seeded sequence does not depend on those it shares a batch with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cortex_neuron.engine.failures import Verdict
from cortex_neuron.engine.grammar import constrain
from cortex_neuron.engine.sequence import Sequence as Seq
from cortex_neuron.layers.batch import Ints
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
    raw = logits.float()
    # One pass finds the rows; NaN and infinity survive a sum.
    finite = raw.sum(-1).isfinite().tolist()
    if all(finite):
        return list(_drawn(raw, sequences))
    good = [i for i, ok in enumerate(finite) if ok or bool(raw[i].isfinite().all())]
    drawn = dict(zip(good, _drawn(raw[good], [sequences[i] for i in good]), strict=True)) if good else {}
    return [drawn[i] if i in drawn else _count(raw[i]) for i in range(len(finite))]


def _drawn(rows: Tensor, sequences: Sequence[Seq]) -> Iterator[Drawn | Verdict]:
    tokens = _draw(constrain(_penalise(rows, sequences), [s.constraint for s in sequences]), sequences)
    drawn = map(Drawn, tokens.tolist(), _logprobs(rows, sequences, tokens))
    return map(_kept_to, sequences, drawn)


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


# ---- logit_bias and penalties


def _penalise(raw: Tensor, sequences: Sequence[Seq]) -> Tensor:
    """The rows with bias and penalties; `raw` itself where there are none."""
    biased = [i for i, s in enumerate(sequences) if s.sampling.logit_bias]
    repeated = [i for i, s in enumerate(sequences) if s.sampling.repetition_penalty != 1]
    counted = [i for i, s in enumerate(sequences) if s.sampling.presence_penalty or s.sampling.frequency_penalty]
    if not (biased or repeated or counted):
        return raw
    logits = raw.clone()
    for i in biased:
        bias = sequences[i].sampling.logit_bias
        ids = torch.tensor(list(bias), device=raw.device)
        logits[i, ids] += torch.tensor(list(bias.values()), dtype=raw.dtype, device=raw.device)
    if repeated:
        _repetition(logits, {i: sequences[i] for i in repeated})
    if counted:
        _frequency(logits, {i: sequences[i] for i in counted})
    return logits


def _repetition(logits: Tensor, sequences: dict[int, Seq]) -> None:
    """Over prompt and output, in place: positive logits are divided, negative ones multiplied."""
    at = _places(logits, {i: s.tokens for i, s in sequences.items()})
    penalty = _column(logits, list(sequences.values()), lambda p: p.repetition_penalty)
    per_place = penalty[:, 0].repeat_interleave(torch.tensor([s.length for s in sequences.values()]).to(at[0]))
    seen = logits[at]  # a token that occurs twice is written twice, with one value
    logits[at] = torch.where(seen > 0, seen / per_place, seen * per_place)


def _frequency(logits: Tensor, sequences: dict[int, Seq]) -> None:
    """Over the output only, in place."""
    counted = {i: np.unique(s.output, return_counts=True) for i, s in sequences.items()}
    penalties = [
        counted[i][1] * s.sampling.frequency_penalty + s.sampling.presence_penalty for i, s in sequences.items()
    ]
    at = _places(logits, {i: tokens for i, (tokens, _) in counted.items()})
    logits[at] -= torch.from_numpy(np.concatenate(penalties)).to(logits)


def _places(logits: Tensor, tokens: Mapping[int, Ints]) -> tuple[Tensor, Tensor]:
    """The indices of some tokens of some rows: far fewer than rows * vocab."""
    ids = torch.from_numpy(np.concatenate(list(tokens.values()))).long()
    rows = torch.tensor(list(tokens)).repeat_interleave(torch.tensor([len(each) for each in tokens.values()]))
    return rows.to(logits.device), ids.to(logits.device)


def _column(like: Tensor, sequences: Sequence[Seq], value: Callable[[SamplingParams], float]) -> Tensor:
    """[rows, 1] of one parameter."""
    return torch.tensor([[value(s.sampling)] for s in sequences], dtype=like.dtype, device=like.device)


# ---- the draw


def _draw(logits: Tensor, sequences: Sequence[Seq]) -> Tensor:
    """[rows] token ids."""
    tokens = logits.argmax(-1)
    drawn = [i for i, s in enumerate(sequences) if not is_greedy(s.sampling)]
    for wants_filter, draw in ((False, _draw_plain), (True, _draw_filtered)):
        rows = [i for i in drawn if is_filtered(sequences[i].sampling) == wants_filter]
        if rows:
            some = [sequences[i] for i in rows]
            tokens[rows] = draw(logits[rows] / _column(logits, some, lambda p: p.temperature), some)
    return tokens


def _draw_plain(logits: Tensor, sequences: Sequence[Seq]) -> Tensor:
    return _invert(logits.softmax(-1), sequences)


def _draw_filtered(logits: Tensor, sequences: Sequence[Seq]) -> Tensor:
    """Sorted best first, every filter keeps a prefix: a draw over the best few is exact if they hold that prefix."""
    if any(s.sampling.min_p for s in sequences):
        floor = logits.amax(-1, keepdim=True) + _column(logits, sequences, lambda p: p.min_p).log()
        logits = logits.masked_fill(logits < floor, float("-inf"))
    size = logits.shape[-1]
    top_k = _column(logits, sequences, lambda p: p.top_k if p.top_k > 0 else size)
    top_p = _column(logits, sequences, lambda p: p.top_p)
    values, ids = logits.topk(min(NUM_CANDIDATES, size))
    probs, holds_all = _filter(logits, values, top_k, top_p)
    if not holds_all:
        values, ids = torch.sort(logits, dim=-1, descending=True, stable=True)
        probs, _ = _filter(logits, values, top_k, top_p)
    return ids.gather(-1, _invert(probs, sequences)[:, None])[:, 0]


def _filter(logits: Tensor, values: Tensor, top_k: Tensor, top_p: Tensor) -> tuple[Tensor, bool]:
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
    return probs.masked_fill(before >= top_p, 0), bool((in_view | nothing_beyond).all())


def _invert(weights: Tensor, sequences: Sequence[Seq]) -> Tensor:
    """The index where the running sum of weights [rows, n] passes a uniform share of the total."""
    uniform = torch.stack([torch.rand(1, dtype=torch.float64, generator=s.generator) for s in sequences])
    sums = weights.cumsum(-1, dtype=torch.float64)
    total = sums[:, -1:].contiguous()
    # `right`: an index whose own weight is 0 is never met, not even by a share of 0.
    index = torch.searchsorted(sums, uniform.to(sums.device) * total, right=True)[:, 0]
    last = torch.searchsorted(sums, total)[:, 0]  # where the sum gets there: a share may be rounded up to all of it
    return torch.minimum(index, last)


# ---- log-probabilities


def _logprobs(raw: Tensor, sequences: Sequence[Seq], tokens: Tensor) -> list[TokenLogprobs | None]:
    wanted = [i for i, s in enumerate(sequences) if s.num_logprobs is not None]
    results: list[TokenLogprobs | None] = [None] * len(sequences)
    if not wanted:
        return results
    logprobs = raw[wanted].log_softmax(-1)
    chosen = logprobs.gather(-1, tokens[wanted][:, None])[:, 0].tolist()
    best = logprobs.topk(max(sequences[i].num_logprobs or 0 for i in wanted))
    for row, i in enumerate(wanted):
        count = sequences[i].num_logprobs or 0
        top_ids, top = best.indices[row, :count].tolist(), best.values[row, :count].tolist()
        results[i] = TokenLogprobs(chosen[row], top_ids, top)
    return results
