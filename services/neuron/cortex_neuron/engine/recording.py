"""How graphs come to be recorded: one after the other, and by several ranks alike.

Owns: what ranks agree on meanwhile, and how replays count collectives. Does not own: the graphs (engine.decode_graphs)
or which models may have them (engine.runner). Called by: engine.runner and engine.footprint.

A graph with collectives in it is launched by all ranks or by none. So all record the same sizes in the same order, and
agree after each whether it came about everywhere; where it did not, none has graphs. A rank that fails alone in the
step that is tried before leaves the others in a collective, and such a load never ends by itself: docs/decisions/0027.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from cortex_neuron.engine import decode_graphs
from cortex_neuron.engine.decode_graphs import Bounds, DecodeGraphs, Record, Step
from cortex_neuron.engine.failures import classify
from cortex_neuron.layers.paged import Layout
from cortex_neuron.layers.parallel import Collectives
from cortex_neuron.models.loaded import LoadedModel

_ELSEWHERE = "another rank has none"


def agreed(refusal: str | None, ranks: Collectives | None) -> str | None:
    """Why no rank is to have graphs; None if every one can."""
    if ranks is None or ranks.smallest(refusal is None):
        return refusal
    return refusal or _ELSEWHERE


@torch.inference_mode()
def graphs_of(model: LoadedModel, compute: Callable[[Layout], Tensor], bounds: Bounds) -> DecodeGraphs:
    """Graphs of what `compute` does, none recorded yet."""
    record = decode_graphs.record_on(model.device)
    if model.collectives is not None:
        record = counting(record, model.collectives)
    return DecodeGraphs(compute, bounds, model.device, record)


def counting(record: Record, ranks: Collectives) -> Record:
    """The same of graphs that count the collectives they begin, as a step without does (case T5)."""

    def counted(step: Step) -> Step:
        entered: list[int] = []  # by each run of the step, which are alike

        def watched() -> None:
            before = ranks.num_entered
            step()
            entered.append(ranks.num_entered - before)

        replay = record(watched)

        def run() -> None:
            ranks.num_entered += entered[-1]
            replay()

        return run

    return counted


@torch.inference_mode()
def record(graphs: DecodeGraphs, sizes: Iterable[int], model: LoadedModel) -> str | None:
    """Record these on every rank. What that failed of, here or elsewhere; then all are dropped, and steps go on without
    them. Raises what a group cannot go on from."""
    for size in sizes:
        if fault := agreed(_fault(graphs, size, model), model.collectives):
            graphs.drop()
            return fault
    return None


def _fault(graphs: DecodeGraphs, size: int, model: LoadedModel) -> str | None:
    try:
        graphs.record(size)
    except Exception as error:
        if model.collectives is not None and classify(error).kind == "out_of_memory":
            raise  # most likely alone, and the others wait in a collective that this rank has not come to
        torch.cuda.synchronize(model.device)  # raises if the device is lost
        return f"recording failed: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return None
