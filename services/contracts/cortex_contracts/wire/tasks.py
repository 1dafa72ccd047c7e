"""Which routes ask for a model of which task, and how one of another is refused.

Called by: the gateway where the catalogue says what a model is for, and the neuron, which knows it of any.
"""

from __future__ import annotations

from cortex_contracts.inventory.fleet import Task
from cortex_contracts.wire.errors import InvalidParameter

_ASKED_BY = {"generate": "/v1/chat/completions and its like", "embed": "/v1/embeddings", "rerank": "/v1/rerank"}
_WANTED: dict[str, Task] = {
    "/v1/chat/completions": "generate",
    "/v1/completions": "generate",
    "/v1/messages": "generate",
    "/v1/responses": "generate",
    "/v1/embeddings": "embed",
    "/v1/rerank": "rerank",
}


def wanted_by(path: str) -> Task | None:
    """What a model must be for that is asked for by this route; None where any will do."""
    return _WANTED.get(path)


def check_task(model_id: str, task: Task, wanted: Task) -> None:
    """Raises InvalidParameter where a route is not for this model."""
    if task != wanted:
        raise InvalidParameter(
            f"model: {model_id} is a model to {task}, which {_ASKED_BY[task]} asks for; this takes one to {wanted}",
            param="model",
        )
