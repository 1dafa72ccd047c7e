"""The life of a model on this neuron: its states and the one table of transitions.

    unloaded ──> loading ──> loaded ──> draining ──> unloaded
                 │ ^        │         └─> sleeping ──> loading     woken; or ──> draining, where it dies or must go
         pending <─┘        └─> recovering ──> loading    its group died: started again, after a while
    loading, pending, recovering ──> failed ──> loading   when asked again
    any but unloaded ──> draining                         when asked to unload

Owns: which state may follow which. Called by: resident.
"""

from __future__ import annotations

from cortex_contracts.wire.errors import (
    CortexError,
    Draining,
    ModelFailed,
    ModelLoading,
    ModelRecovering,
    Unavailable,
)
from cortex_contracts.wire.neuron import ModelStatus

_UNLOADED, _PENDING, _LOADING = ModelStatus.UNLOADED, ModelStatus.PENDING, ModelStatus.LOADING
_LOADED, _DRAINING, _SLEEPING, _RECOVERING, _FAILED = (
    ModelStatus.LOADED,
    ModelStatus.DRAINING,
    ModelStatus.SLEEPING,
    ModelStatus.RECOVERING,
    ModelStatus.FAILED,
)

TRANSITIONS: dict[ModelStatus, frozenset[ModelStatus]] = {
    _UNLOADED: frozenset({_LOADING}),
    _PENDING: frozenset({_LOADING, _DRAINING, _RECOVERING, _FAILED}),
    _LOADING: frozenset({_LOADED, _PENDING, _RECOVERING, _FAILED, _DRAINING}),
    _LOADED: frozenset({_DRAINING, _RECOVERING}),
    _DRAINING: frozenset({_UNLOADED, _SLEEPING}),
    _SLEEPING: frozenset({_LOADING, _DRAINING}),
    _RECOVERING: frozenset({_LOADING, _DRAINING, _FAILED}),
    _FAILED: frozenset({_LOADING, _DRAINING}),
}

# A load or a recovery is under way.
BUSY = frozenset({_PENDING, _LOADING, _RECOVERING})


class IllegalTransition(Exception):
    """A state was to follow one that it must not follow: a mistake of ours, never of a caller."""

    def __init__(self, model_id: str, before: ModelStatus, after: ModelStatus) -> None:
        super().__init__(f"model {model_id}: {before} -> {after} is not a transition")
        self.before, self.after = before, after


def is_wanted(status: ModelStatus) -> bool:
    """True for a model that is loaded or will be: asking for a load changes nothing."""
    return status is ModelStatus.LOADED or status in BUSY


def check_transition(model_id: str, before: ModelStatus, after: ModelStatus) -> None:
    """Raises IllegalTransition."""
    if after not in TRANSITIONS[before]:
        raise IllegalTransition(model_id, before, after)


def refusal(model_id: str, status: ModelStatus, reason: str | None) -> CortexError:
    """Why a model in this state does not answer: always 503, because the model exists (cases T6, L5)."""
    because = f": {reason}" if reason else ""
    match status:
        case ModelStatus.PENDING | ModelStatus.LOADING:
            return ModelLoading(f"model {model_id} is loading{because}")
        case ModelStatus.RECOVERING:
            return ModelRecovering(f"model {model_id} is recovering{because}")
        case ModelStatus.FAILED:
            return ModelFailed(f"model {model_id} failed{because}")
        case ModelStatus.DRAINING:
            return Draining(f"model {model_id} is being unloaded")
        case ModelStatus.SLEEPING:
            return Unavailable(f"model {model_id} sleeps here")
        case _:
            return Unavailable(f"model {model_id} is not loaded here")
