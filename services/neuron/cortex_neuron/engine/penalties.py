"""Bias and penalties on logits, of the rows whose requests ask for some.

Owns: their meaning, which is vLLM's. Does not own: the order among all that shapes a row (engine.sampler, which calls
this). Indices are made on the host, and sent: nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from cortex_neuron.engine.sequence import Sequence as Seq
from cortex_neuron.layers.batch import Ints
from cortex_neuron.layers.transfer import upload


def penalise(raw: Tensor, sequences: Sequence[Seq]) -> Tensor:
    """The rows with bias and penalties; `raw` itself where there are none."""
    biased = [i for i, s in enumerate(sequences) if s.sampling.logit_bias]
    repeated = [i for i, s in enumerate(sequences) if s.sampling.repetition_penalty != 1]
    counted = [i for i, s in enumerate(sequences) if s.sampling.presence_penalty or s.sampling.frequency_penalty]
    if not (biased or repeated or counted):
        return raw
    logits = raw.clone()
    for i in biased:
        bias = sequences[i].sampling.logit_bias
        ids = upload(np.array(list(bias), np.int64), raw.device)
        logits[i, ids] += upload(np.array(list(bias.values()), np.float32), raw.device)
    if repeated:
        _repetition(logits, {i: sequences[i] for i in repeated})
    if counted:
        _frequency(logits, {i: sequences[i] for i in counted})
    return logits


def _repetition(logits: Tensor, sequences: dict[int, Seq]) -> None:
    """Over prompt and output, in place: positive logits are divided, negative ones multiplied."""
    at = _places(logits, {i: s.tokens for i, s in sequences.items()})
    penalties = [np.float32(s.sampling.repetition_penalty) for s in sequences.values()]
    per_place = upload(np.repeat(penalties, [s.length for s in sequences.values()]), logits.device)
    seen = logits[at]  # a token that occurs twice is written twice, with one value
    logits[at] = (seen / per_place).where(seen > 0, seen * per_place)


def _frequency(logits: Tensor, sequences: dict[int, Seq]) -> None:
    """Over the output only, in place."""
    counted = {i: np.unique(s.output, return_counts=True) for i, s in sequences.items()}
    penalties = [
        counted[i][1] * s.sampling.frequency_penalty + s.sampling.presence_penalty for i, s in sequences.items()
    ]
    at = _places(logits, {i: tokens for i, (tokens, _) in counted.items()})
    logits[at] -= upload(np.concatenate(penalties).astype(np.float32), logits.device)


def _places(logits: Tensor, tokens: Mapping[int, Ints]) -> tuple[Tensor, Tensor]:
    """The indices of some tokens of some rows: far fewer than rows * vocab."""
    rows = np.repeat(np.array(list(tokens), np.int64), [len(each) for each in tokens.values()])
    ids = np.concatenate(list(tokens.values())).astype(np.int64)
    return upload(rows, logits.device), upload(ids, logits.device)
