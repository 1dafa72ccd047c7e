"""What we believe of each neuron: answers and strikes go in, a Snapshot comes out.

Owns: strikes (case L4), and intents: what this gateway has just told a neuron to load or unload, believed until the
command has ended, so that two decisions never spend the same memory. Does not own: asking (poller.py). No I/O.
Called by: poller, loading, forwarding (strikes), api (reads).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

import msgspec

from cortex_contracts.inventory.files import NeuronAddress
from cortex_contracts.wire.neuron import Discovery, ModelRow, NeuronState
from cortex_gateway.fleet.condition import Condition, ModelCondition
from cortex_gateway.fleet.outstanding import Seat
from cortex_gateway.fleet.snapshot import DeviceView, ModelView, NeuronView, Reach, Snapshot

STRIKES = 3


class _Heard(StrEnum):
    """What can happen to Reach."""

    ANSWER = "answer"
    LAST_STRIKE = "last_strike"


REACH = {
    (Reach.UNKNOWN, _Heard.ANSWER): Reach.UP,
    (Reach.UP, _Heard.ANSWER): Reach.UP,
    (Reach.DOWN, _Heard.ANSWER): Reach.UP,
    (Reach.UNKNOWN, _Heard.LAST_STRIKE): Reach.DOWN,
    (Reach.UP, _Heard.LAST_STRIKE): Reach.DOWN,
    (Reach.DOWN, _Heard.LAST_STRIKE): Reach.DOWN,
}


@dataclass(frozen=True, slots=True)
class Report:
    """One neuron's answers to one poll."""

    discovery: Discovery
    health: Condition
    models: tuple[ModelRow, ...]


class Beliefs:
    """The fleet as far as we know. `went_down` is called with the name of a neuron that has just been given up."""

    def __init__(self, neurons: Iterable[NeuronAddress], went_down: Callable[[str], None] = lambda name: None) -> None:
        self._neurons: dict[str, NeuronView] = {}
        self._intents: dict[str, dict[str, ModelView]] = {}
        self._conditions: dict[str, Condition] = {}
        # What an idle neuron said last and what came of it: while it says the same, nothing new comes of it.
        self._settled: dict[str, tuple[Report, NeuronView]] = {}
        self._snapshot = Snapshot()
        self._went_down = went_down
        self.set_neurons(neurons)

    def set_neurons(self, neurons: Iterable[NeuronAddress]) -> None:
        """The neurons there are from now on; what is known of those that stay is kept."""
        known, self._neurons = self._neurons, {}
        for neuron in neurons:
            url = neuron.url.rstrip("/")
            before = known.get(neuron.name)
            kept = before is not None and before.url == url
            self._neurons[neuron.name] = before if before and kept else NeuronView(name=neuron.name, url=url)
        self._conditions = {name: self._conditions[name] for name in self._neurons if name in self._conditions}
        self._settled = {name: self._settled[name] for name in self._neurons if name in self._settled}
        self._snapshot = Snapshot(self._with_intents(view) for view in self._neurons.values())

    def snapshot(self) -> Snapshot:
        """The fleet now; true until the next await."""
        return self._snapshot

    def condition(self, neuron: str) -> Condition | None:
        """Its last report as it came, for what nothing is decided by: how warm and busy its devices are."""
        return self._conditions.get(neuron)

    def answered(self, name: str, report: Report, ours: Mapping[tuple[str, str], int]) -> None:
        """A poll went well; `ours` counts this gateway's own requests by (neuron, model)."""
        before = self._neurons.get(name)
        if before is None:
            return
        report_before, view_before = self._settled.get(name, (None, None))
        if report is report_before and before is view_before:
            return
        self._conditions[name] = report.health
        busy = {each.id: each.in_flight + each.queue_depth for each in report.health.models if _is_busy(each)}
        models = before.models
        if busy or before is not view_before or report_before is None or report.models is not report_before.models:
            models = _model_views(name, report.models, busy, ours)
        view = _view(before, report, models)
        if view != before:
            self._believe(view)
        if not busy:
            self._settled[name] = report, self._neurons[name]

    def strike(self, name: str) -> int:
        """An answer did not come. Returns the strikes in a row; at STRIKES the neuron is down."""
        before = self._neurons.get(name)
        if before is None:
            return 0
        strikes = before.strikes + 1
        reach = REACH[before.reach, _Heard.LAST_STRIKE] if strikes >= STRIKES else before.reach
        self._believe(replace(before, strikes=strikes, reach=reach))
        if reach is Reach.DOWN and before.reach is not Reach.DOWN:
            self._went_down(name)
        return strikes

    def intend(self, neuron: str, views: Iterable[ModelView]) -> None:
        """Believe that `neuron` has these models in these states, whatever polls say, until `withdraw`."""
        self._intents[neuron] = {**self._intents.get(neuron, {}), **{view.id: view for view in views}}
        self._show(neuron)

    def withdraw(self, neuron: str, model_ids: Iterable[str]) -> None:
        """Believe the polls again."""
        for model_id in model_ids:
            self._intents.get(neuron, {}).pop(model_id, None)
        self._show(neuron)

    def learn(self, neuron: str, row: ModelRow) -> None:
        """One model's state, heard between two polls."""
        before = self._neurons.get(neuron)
        if before is not None:
            known = before.models.get(row.id)
            models = {**before.models, row.id: _model_view(row, known.elsewhere if known else 0)}
            self._believe(replace(before, models=MappingProxyType(models)))

    def learn_busy(self, neuron: str, model_id: str) -> None:
        """A model is used there by somebody else, heard between two polls."""
        before = self._neurons.get(neuron)
        if before is not None and (known := before.models.get(model_id)) is not None:
            models = {**before.models, model_id: msgspec.structs.replace(known, elsewhere=max(1, known.elsewhere))}
            self._believe(replace(before, models=MappingProxyType(models)))

    def learn_state(self, neuron: str, state: NeuronState) -> None:
        """What a neuron is doing, heard between two polls."""
        before = self._neurons.get(neuron)
        if before is not None:
            self._believe(replace(before, state=state))

    def _believe(self, view: NeuronView) -> None:
        self._neurons[view.name] = view
        self._show(view.name)

    def _show(self, name: str) -> None:
        """Bring the snapshot up to date."""
        view = self._neurons.get(name)
        if view is not None:
            self._snapshot.put(self._with_intents(view))

    def _with_intents(self, view: NeuronView) -> NeuronView:
        intents = self._intents.get(view.name)
        if not intents:
            return view
        merged = {**view.models, **intents}
        for model_id, intent in intents.items():
            known = view.models.get(model_id)
            if known is not None and known.status is intent.status:
                merged[model_id] = known  # the neuron's own word for the same says more, such as progress
        return replace(view, models=MappingProxyType(merged))


def _is_busy(model: ModelCondition) -> bool:
    return model.in_flight > 0 or model.queue_depth > 0


def _model_views(
    name: str, rows: Iterable[ModelRow], busy: Mapping[str, int], ours: Mapping[Seat, int]
) -> Mapping[str, ModelView]:
    views = {}
    for row in rows:
        elsewhere = busy.get(row.id, 0) - ours.get((name, row.id), 0)
        views[row.id] = _model_view(row, max(0, elsewhere))
    return MappingProxyType(views)


def _view(before: NeuronView, report: Report, models: Mapping[str, ModelView]) -> NeuronView:
    health, discovery = report.health, report.discovery
    free = {device.index: device.vram_free_mb for device in health.devices}
    return NeuronView(
        name=before.name,
        url=before.url,
        reach=REACH[before.reach, _Heard.ANSWER],
        strikes=0,
        state=health.state,
        version=health.version,
        device_kind=discovery.device_kind,
        devices=tuple(
            [
                DeviceView(each.index, each.vram_total_mb, free.get(each.index, 0), each.name)
                for each in discovery.devices
            ]
        ),
        harnesses=frozenset(discovery.harnesses),
        models=before.models if before.models == models else models,
        sleep_host_memory_mb=discovery.sleep_host_memory_mb,
    )


def _model_view(row: ModelRow, elsewhere: int) -> ModelView:
    return ModelView(
        id=row.id,
        status=row.status,
        elsewhere=elsewhere,
        devices=tuple(row.devices),
        vram_used_mb=row.vram_used_mb,
        last_used_at=row.last_used_at,
        progress=row.progress,
        failure=row.failure,
        retry_after_s=row.retry_after_s,
        context=row.context,
        task=row.task,
        loads=row.loads,
        host_memory_mb=row.host_memory_mb,
        pinned=row.pinned,
    )
