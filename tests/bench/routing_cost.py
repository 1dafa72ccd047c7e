"""What a routing decision costs, by its kind and the size of the fleet, and what a poll's answer costs to believe.

Fleets of neurons with one, two, four and eight devices, five models on each. Between two decisions ten neurons answer
polls and ten requests begin or end, as they do where 1,000 neurons are polled each second and 100 decisions are taken.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from cortex_contracts.inventory.files import NeuronAddress
from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.neuron import (
    Activation,
    Condition,
    DeviceHealth,
    DeviceSpec,
    Discovery,
    ModelHealth,
    ModelRow,
    ModelStatus,
    NeuronState,
)
from cortex_gateway.fleet.beliefs import Beliefs, Report
from cortex_gateway.fleet.outstanding import Outstanding
from cortex_gateway.routing.decide import decide
from cortex_gateway.routing.decision import Load
from cortex_gateway.routing.prefixes import Served, beginnings
from cortex_gateway.routing.rules import Ask, Rules

_SIZES = (3, 100, 1000)
_ON_EACH = 5
_DECISIONS = 400
_DEVICE_MB, _MODEL_MB = 24_000, 4_000
_SPREAD = "on-a-tenth"
_TURN = '[{"role":"user","content":"' + "What is the weather like in Bern? " * 60


@dataclass
class Fleet:
    """One fleet, as a gateway believes it to be."""

    beliefs: Beliefs
    rules: Rules
    reports: dict[str, Report]

    def churn(self, draw: random.Random) -> None:
        """What happens between two decisions."""
        names = list(self.reports)
        for _ in range(10):
            name = draw.choice(names)
            self.reports[name] = _later(self.reports[name], draw)
            self.beliefs.answered(name, self.reports[name], self.rules.outstanding)
            seat = (name, self.reports[name].models[0].id)
            self.rules.outstanding.take(seat)
            self.rules.outstanding.give_back(seat)


def measure() -> dict[str, float]:
    """Microseconds of a decision, p50 and p99, by kind and number of neurons."""
    figures: dict[str, float] = {}
    for size in _SIZES:
        for kind, microseconds in _measured(size).items():
            ordered = sorted(microseconds)
            figures[f"{kind} {size} p50_us"] = statistics.median(ordered)
            figures[f"{kind} {size} p99_us"] = ordered[int(len(ordered) * 0.99)]
    return figures


def _measured(size: int) -> dict[str, list[float]]:
    draw = random.Random(size)
    roomy, full, busy = _fleet(size, 1), _fleet(size, 0), _fleet(size, 0)
    for name, report in busy.reports.items():
        for row in report.models:
            busy.rules.outstanding.take((name, row.id))
    known = {"forward": "m7", "forward_many": _SPREAD, "wait": "coming", "place": "new"}
    made: dict[str, list[float]] = {kind: _timed(roomy, id_, draw) for kind, id_ in known.items()}
    prompt = beginnings(_SPREAD, [_TURN.encode()])
    roomy.rules.prefixes.remember(prompt, Served(roomy.beliefs.snapshot().where(_SPREAD)[-1], 0))
    made["forward_prefix"] = _timed(roomy, _SPREAD, draw, prompt)
    made["evict_one"] = _timed(full, "new", draw)
    made["evict_several"] = _timed(full, "large", draw)
    made["reject"] = _timed(full, "huge", draw)
    made["reject_busy"] = _timed(busy, "new", draw)
    made["answer_same"] = _answers(full, draw, lambda report: report)
    made["answer_changed"] = _answers(full, draw, lambda report: _later(report, draw))
    return made


def _timed(fleet: Fleet, model_id: str, draw: random.Random, prompt: list[int] | None = None) -> list[float]:
    model, found = fleet.rules.catalogue[model_id], []
    for number in range(_DECISIONS):
        fleet.churn(draw)
        ask = Ask(now=1.0, draw=draw.getrandbits(32), prompt=prompt or ())
        began = time.thread_time()
        decide(fleet.beliefs.snapshot(), model, fleet.rules, ask)
        if number:  # the first makes the lane
            found.append((time.thread_time() - began) * 1e6)
    return found


def _answers(fleet: Fleet, draw: random.Random, change: Callable[[Report], Report]) -> list[float]:
    names, found = list(fleet.reports), []
    assert isinstance(decide(fleet.beliefs.snapshot(), fleet.rules.catalogue["new"], fleet.rules), Load)
    for _ in range(_DECISIONS):
        name = draw.choice(names)
        report = fleet.reports[name] = change(fleet.reports[name])
        began = time.thread_time()
        fleet.beliefs.answered(name, report, fleet.rules.outstanding)
        found.append((time.thread_time() - began) * 1e6)
    return found


def _fleet(size: int, spare: int) -> Fleet:
    """Five models a neuron; `spare` leaves room for one more on some."""
    entries = [Model(id=f"m{number}", source="-", vram_mb=_MODEL_MB) for number in range(size * _ON_EACH)]
    entries += [Model(id=id_, source="-", vram_mb=_MODEL_MB) for id_ in (_SPREAD, "coming", "new")]
    entries += [
        Model(id="large", source="-", vram_mb=2 * _MODEL_MB + 1),
        Model(id="huge", source="-", vram_mb=99 * _DEVICE_MB),
    ]
    names = [f"neuron-{number:04}" for number in range(size)]
    beliefs = Beliefs(NeuronAddress(name=name, url=f"http://{name}") for name in names)
    fleet = Fleet(beliefs, Rules({model.id: model for model in entries}, Outstanding()), {})
    draw = random.Random(size)
    for number, name in enumerate(names):
        fleet.reports[name] = _report(number, size, spare, draw)
        beliefs.answered(name, fleet.reports[name], fleet.rules.outstanding)
    return fleet


def _report(number: int, size: int, spare: int, draw: random.Random) -> Report:
    devices = range((1, 2, 4, 8)[number % 4])
    loaded = [_row(f"m{number * _ON_EACH + index}", index % len(devices), draw) for index in range(_ON_EACH)]
    if number % 10 == 0 or size < 10:
        loaded[0] = _row(_SPREAD, 0, draw)
    if number == size - 1 and spare:
        loaded[1] = loaded[1].model_copy(update={"id": "coming", "status": ModelStatus.LOADING})
    free_mb = draw.randrange(_MODEL_MB, 2 * _MODEL_MB) if spare and number % 3 == 0 else _MODEL_MB // 8
    return Report(
        discovery=Discovery(
            hostname="-", os="-", kernel="-", device_kind="cuda", harnesses=["torch"], version="1",
            devices=[DeviceSpec(index=index, name="card", vram_total_mb=_DEVICE_MB) for index in devices],
        ),
        health=Condition(
            state=NeuronState.READY, version="1", activation=Activation(),
            devices=[DeviceHealth(index=index, vram_used_mb=0, vram_free_mb=free_mb) for index in devices],
            models=[ModelHealth(id=row.id, status=row.status) for row in loaded],
        ),
        models=tuple(loaded),
    )  # fmt: skip


def _row(model_id: str, device: int, draw: random.Random) -> ModelRow:
    used_at = draw.uniform(1e9, 2e9)
    return ModelRow(
        id=model_id, harness="torch", status=ModelStatus.LOADED, devices=[device], vram_used_mb=_MODEL_MB,
        last_used_at=used_at,
    )  # fmt: skip


def _later(report: Report, draw: random.Random) -> Report:
    """The same after one of its models was used."""
    first = report.models[0].model_copy(update={"last_used_at": draw.uniform(2e9, 3e9)})
    return Report(report.discovery, report.health, (first, *report.models[1:]))
