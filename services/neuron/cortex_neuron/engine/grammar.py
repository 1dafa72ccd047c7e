"""Answers that keep to a grammar: which tokens may come next, a mask a row.

Owns: grammars compiled for the model's tokens, and where each sequence is in its own. Does not own: their text (the
daemon's, in llguidance's words), or sequences. Called by: engine.compiling, which compiles beside the engine's thread;
engine.sampler, for the rows that have a grammar. Others cost nothing and are not looked at.

A sequence that is preempted keeps its place: it is of the tokens drawn, which stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask, fill_next_token_bitmask_par
from tokenizers import Tokenizer
from torch import Tensor

from cortex_neuron.layers.transfer import upload
from cortex_neuron.protocol.failures import BadRequest
from cortex_neuron.protocol.frames import Opening

_KEPT = 64  # grammars; agents send the same tools with every request


class Constraint:
    """One sequence's place in its grammar, which binds from the first token on, or from its opening."""

    def __init__(self, matcher: LLMatcher, opening: Opening | None = None) -> None:
        self.matcher = matcher
        self._opening = opening
        self._in_thought = opening is not None and opening.in_thought
        self.binds = opening is None
        self.has_opened = False  # with the token that was accepted last

    @property
    def ended(self) -> bool:
        """Whether nothing more may come."""
        return self.binds and bool(self.matcher.is_stopped())

    @property
    def failure(self) -> str | None:
        """Why the grammar cannot be kept to any further, such as its size; None while it can."""
        return self.matcher.get_error().partition("\n")[0] if self.matcher.is_error() else None

    def accept(self, token: int) -> None:
        """This token was drawn."""
        self.has_opened = self._opening is not None and not self.binds and self._opens(self._opening, token)
        self.binds = self.binds or self.has_opened
        if self.binds:
            self.matcher.consume_token(token)

    def _opens(self, opening: Opening, token: int) -> bool:
        if opening.thought is not None and token in opening.thought:
            self._in_thought = token == opening.thought[0]
        return token in opening.tokens and not self._in_thought


class Grammars:
    """Those of one model. Its tokens are read for the first of them: that takes a second, and most models need none."""

    def __init__(self, tokenizer_json: str, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._json = tokenizer_json
        self._vocab_size = vocab_size
        self._eos_ids = list(eos_ids)
        self._matcher = lru_cache(maxsize=_KEPT)(self._compile)

    def constraint(self, text: str, opening: Opening | None = None) -> Constraint:
        """A new sequence's. Raises BadRequest. May take long."""
        return Constraint(self._matcher(text).deep_copy(), opening)

    def _compile(self, text: str) -> LLMatcher:
        tokenizer = self._tokenizer
        if isinstance(tokenizer, BadRequest):
            raise tokenizer
        matcher = LLMatcher(tokenizer, text, log_level=0)
        if matcher.is_error():
            raise BadRequest(f"grammar: {matcher.get_error().partition(chr(10))[0]}")
        return matcher

    @cached_property
    def _tokenizer(self) -> LLTokenizer | BadRequest:
        """Or why there is none: that takes as long to find out, and is so for good."""
        try:
            tokenizer = Tokenizer.from_str(self._json)
            tokenizer.no_padding()
            tokenizer.no_truncation()
            return LLTokenizer(tokenizer.to_str(), n_vocab=self._vocab_size, eos_token=self._eos_ids)
        except Exception as error:  # noqa: BLE001  the library raises nothing more precise
            return BadRequest(f"grammar: this model's tokenizer cannot keep to any: {error}")


def constrain(logits: Tensor, constraints: Sequence[Constraint | None]) -> Tensor:
    """logits [rows, vocab] with what each row's grammar does not allow at -inf; `logits` itself where there is none."""
    binding = {i: each for i, each in enumerate(constraints) if each is not None and each.binds}
    if not binding:
        return logits
    refused = upload(~_allowed(list(binding.values()), logits.shape[-1]), logits.device)
    bound = upload(np.array(list(binding), np.int64), logits.device)
    # Not in place: they may be the model's own, which are still to be told as log-probabilities.
    return logits.index_copy(0, bound, logits[bound].masked_fill(refused, float("-inf")))


def _allowed(constraints: Sequence[Constraint], vocab_size: int) -> npt.NDArray[np.bool_]:
    """[rows, vocab]. A row that has failed may have anything: what is drawn for it is not used."""
    bits = allocate_token_bitmask(len(constraints), vocab_size)
    if len(constraints) == 1:
        fill_next_token_bitmask(constraints[0].matcher, bits)
    else:
        fill_next_token_bitmask_par(_executor(), [(each.matcher, i) for i, each in enumerate(constraints)], bits)
    allowed = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")[:, :vocab_size].astype(np.bool_)
    for row, each in zip(allowed, constraints, strict=True):
        if each.failure is not None or not row.any():
            row[:] = True
    return allowed


@lru_cache(maxsize=1)
def _executor() -> LLExecutor:
    """Threads of its own, which sleep between masks."""
    return LLExecutor()
