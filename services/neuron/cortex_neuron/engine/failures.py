"""How far a fault reaches: one request, or the whole group.

Owns: the rule that tells them apart. Does not own: the failures we raise ourselves (protocol.failures) or the report
(engine.rank). Kinds: those of protocol.failures, device_lost, out_of_memory, and engine_error for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from cortex_neuron.protocol.failures import RankFailure

_DEVICE_WORDS = ("CUDA error", "CUDA driver error", "cuDNN error", "CUBLAS_STATUS", "NCCL error", "device-side assert")
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "DefaultCPUAllocator")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`fatal`: the group cannot go on. Otherwise only the requests at hand fail."""

    kind: str
    message: str
    fatal: bool
    rank: int | None = None  # whose failure it is, where that is another's


def classify(error: BaseException) -> Verdict:
    """Looks at the whole chain of causes: the outermost words often hide a device fault (case T5)."""
    chain = list(_chain(error))
    message = " <- ".join(f"{type(e).__name__}: {e}" for e in chain)
    if any(_is_memory(e) for e in chain):
        return Verdict("out_of_memory", message, True)
    if any(_is_device(e) for e in chain):
        return Verdict("device_lost", message, True)
    named = next((e for e in chain if isinstance(e, RankFailure)), None)
    if named is not None:
        return Verdict(named.kind, str(named), named.fatal, named.rank)
    return Verdict("engine_error", message, False)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _MEMORY_WORDS)


def _is_device(error: BaseException) -> bool:
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _DEVICE_WORDS)
