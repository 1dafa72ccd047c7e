"""Declared against running: a pure comparison of the inventory with what the hosts said.

Owns: every rule by which a fleet is not as declared. Does not own: what follows from it (document). What a host did
not say is never held against its models: a dead host is one finding, not twenty. Called by: command.
"""

from __future__ import annotations

from collections.abc import Iterator

from cortex_contracts.inventory.fleet import Fleet, Model, NeuronHost
from cortex_contracts.inventory.relations import spread
from cortex_contracts.wire.neuron import Discovery, ModelRow, ModelStatus, NeuronState
from cortex_status.fleet_status.findings import Finding, FindingKind
from cortex_status.fleet_status.observed import GatewaySeen, NeuronBelief, NeuronSeen, Observed, Silence


def find(fleet: Fleet, observed: Observed) -> list[Finding]:
    """Every difference, hosts in the inventory's order; empty when all is as declared."""
    return [*_findings(fleet, observed)]


def _findings(fleet: Fleet, observed: Observed) -> Iterator[Finding]:
    models = {model.id: model for model in fleet.models}
    neurons = {neuron.name: neuron for neuron in fleet.neurons}
    answering = {seen.name for seen in observed.neurons if seen.answers}
    yield from _versions(observed)
    for gateway in observed.gateways:
        yield from _answering("gateway", gateway)
        yield from _gateway_health(gateway)
        yield from _restart(gateway)
        yield from _beliefs(gateway, neurons, answering)
        yield from _catalogue(gateway, fleet)
    for seen in observed.neurons:
        yield from _answering("neuron", seen)
        yield from _host(neurons[seen.name], seen)
        yield from _rows(seen, models)
        yield from _expected(neurons[seen.name], seen, fleet)


def _versions(observed: Observed) -> Iterator[Finding]:
    said = [(seen.version, seen.name) for seen in observed.hosts if seen.version is not None]
    if parts := _differing(said):
        yield Finding(kind=FindingKind.VERSION_DIFFERS, host=None, message=f"hosts run different versions: {parts}")
    answers = [(seen.version_answer, seen.name) for seen in observed.hosts]
    # After the plus stands what it depends on, which differs between gateways and neurons.
    releases = [((answer.release or "none").partition("+")[0], name) for answer, name in answers if answer is not None]
    if parts := _differing(releases):
        yield Finding(kind=FindingKind.RELEASE_DIFFERS, host=None, message=f"hosts run different releases: {parts}")


def _differing(said: list[tuple[str, str]]) -> str:
    """What is said by which hosts, each named once; empty where all say the same."""
    hosts: dict[str, list[str]] = {}
    for value, name in said:
        if name not in hosts.setdefault(value, []):
            hosts[value].append(name)
    return "; ".join(f"{value} on {', '.join(names)}" for value, names in sorted(hosts.items()) if len(hosts) > 1)


def _answering(role: str, seen: GatewaySeen | NeuronSeen) -> Iterator[Finding]:
    # A host that gave nothing would say the same of each endpoint: its first problem stands for all.
    for problem in seen.problems if seen.answers else seen.problems[:1]:
        wrong = seen.answers or problem.reason is Silence.BAD_ANSWER
        kind = FindingKind.BAD_ANSWER if wrong else FindingKind.HOST_UNREACHABLE
        message = f"{role} {seen.url}{problem.endpoint}: {problem.reason.replace('_', ' ')}: {problem.message}"
        yield Finding(kind=kind, host=seen.name, message=message)


def _gateway_health(gateway: GatewaySeen) -> Iterator[Finding]:
    if gateway.health is None or gateway.health.status in (None, "ok"):
        return
    # A gateway is `degraded` or `unavailable` for its neurons: those that it misses are findings themselves.
    missing = any(belief.healthy is False for belief in gateway.health.neurons or [])
    if not (missing and gateway.health.status in ("degraded", "unavailable")):
        message = f"gateway says of itself: {gateway.health.status}"
        yield Finding(kind=FindingKind.HOST_UNHEALTHY, host=gateway.name, message=message)


def _restart(gateway: GatewaySeen) -> Iterator[Finding]:
    awaited = gateway.version_answer.awaits_restart if gateway.version_answer else []
    if awaited:
        message = f"gateway runs with other values than its cortex.toml has: {', '.join(awaited)}; restart it"
        yield Finding(kind=FindingKind.AWAITS_RESTART, host=gateway.name, message=message)


def _beliefs(gateway: GatewaySeen, neurons: dict[str, NeuronHost], answering: set[str]) -> Iterator[Finding]:
    if gateway.health is None or gateway.health.neurons is None:
        return
    beliefs = {belief.name: belief for belief in gateway.health.neurons}
    for name in (name for name in neurons if name not in beliefs):
        message = f"gateway does not know the neuron {name} of the inventory"
        yield Finding(kind=FindingKind.NEURON_UNKNOWN, host=gateway.name, message=message)
    for name, belief in beliefs.items():
        if name in neurons:
            yield from _belief(gateway.name, belief, neurons[name], name in answering)
        else:
            message = f"gateway knows a neuron {name} ({belief.url}) that the inventory does not declare"
            yield Finding(kind=FindingKind.NEURON_UNDECLARED, host=gateway.name, message=message)


def _belief(gateway: str, belief: NeuronBelief, neuron: NeuronHost, answers: bool) -> Iterator[Finding]:
    if belief.url is not None and belief.url.rstrip("/") != neuron.url:
        message = f"gateway asks the neuron {neuron.name} at {belief.url}; the inventory says {neuron.url}"
        yield Finding(kind=FindingKind.NEURON_ADDRESS_DIFFERS, host=gateway, message=message)
    if belief.healthy is False and answers:
        message = f"gateway takes the neuron {neuron.name} for dead, yet it answers here at {neuron.url}"
        yield Finding(kind=FindingKind.NEURON_DISBELIEVED, host=gateway, message=message)


def _catalogue(gateway: GatewaySeen, fleet: Fleet) -> Iterator[Finding]:
    if gateway.catalogue is None:
        return
    listed = {entry.id for entry in gateway.catalogue.data}
    declared = {model.id for model in fleet.models}
    aliases = {alias for model in fleet.models for alias in model.aliases}
    for model in sorted(declared - listed):
        message = f"gateway does not list the model {model} of the inventory"
        yield Finding(kind=FindingKind.MODEL_UNKNOWN, host=gateway.name, model=model, message=message)
    for model in sorted(listed - declared - aliases):
        message = f"gateway lists a model {model} that the inventory does not declare"
        yield Finding(kind=FindingKind.MODEL_UNDECLARED, host=gateway.name, model=model, message=message)


def _host(neuron: NeuronHost, seen: NeuronSeen) -> Iterator[Finding]:
    if seen.discovery is not None:
        yield from _devices(neuron, seen.name, seen.discovery)
    if seen.health is not None:
        yield from _state(neuron, seen.health.state)


def _devices(neuron: NeuronHost, host: str, discovery: Discovery) -> Iterator[Finding]:
    if discovery.driver_problem is not None:
        yield Finding(kind=FindingKind.DRIVER_PROBLEM, host=host, message=discovery.driver_problem)
    if isinstance(neuron.devices, tuple):
        present = {device.index for device in discovery.devices if discovery.device_kind != "cpu"}
        missing = [index for index in neuron.devices if index not in present]
        if missing:
            message = f"neuron_devices is {list(neuron.devices)}; the host has no GPU {missing}"
            yield Finding(kind=FindingKind.DEVICES_MISSING, host=host, message=message)


def _state(neuron: NeuronHost, state: NeuronState) -> Iterator[Finding]:
    if state is NeuronState.STOPPING:
        yield Finding(kind=FindingKind.HOST_UNHEALTHY, host=neuron.name, message="neuron is stopping")
    if state is NeuronState.DRAINING and not neuron.drained:
        message = "neuron is drained; the inventory says neuron_drained: false"
        yield Finding(kind=FindingKind.DRAINED, host=neuron.name, message=message)
    if state in (NeuronState.READY, NeuronState.ACTIVATING) and neuron.drained:
        message = f"neuron is {state}; the inventory says neuron_drained: true"
        yield Finding(kind=FindingKind.NOT_DRAINED, host=neuron.name, message=message)


def _rows(seen: NeuronSeen, models: dict[str, Model]) -> Iterator[Finding]:
    for row in seen.models or []:
        if row.status is ModelStatus.UNLOADED:
            continue
        yield from _ill(seen.name, row)
        if row.id not in models:
            message = f"{row.id} is {row.status}; cortex_models does not declare it"
            yield Finding(kind=FindingKind.MODEL_UNDECLARED, host=seen.name, model=row.id, message=message)
        else:
            # Every rank of a CPU host runs on its one device: only GPUs are counted.
            counted = seen.discovery is not None and seen.discovery.device_kind != "cpu"
            yield from _differences(seen.name, row, models[row.id], counted)


def _ill(host: str, row: ModelRow) -> Iterator[Finding]:
    kinds = {ModelStatus.FAILED: FindingKind.MODEL_FAILED, ModelStatus.RECOVERING: FindingKind.MODEL_RECOVERING}
    if row.status not in kinds:
        return
    message = f"{row.id} is {row.status}"
    if row.failure is not None:
        rank = "" if row.failure.rank is None else f" on rank {row.failure.rank}"
        message += f": {row.failure.kind}{rank}: {row.failure.message}"
    yield Finding(kind=kinds[row.status], host=host, model=row.id, message=message)


def _differences(host: str, row: ModelRow, model: Model, gpus: bool) -> Iterator[Finding]:
    if row.harness != model.harness:
        message = f"{row.id} runs in harness {row.harness}; the inventory says {model.harness}"
        yield Finding(kind=FindingKind.HARNESS_DIFFERS, host=host, model=row.id, message=message)
    if None not in (row.context, model.context) and row.context != model.context:
        message = f"{row.id} runs with context {row.context}; the inventory says {model.context}"
        yield Finding(kind=FindingKind.CONTEXT_DIFFERS, host=host, model=row.id, message=message)
    if gpus and row.devices and len(row.devices) != model.span:
        message = f"{row.id} runs on devices {row.devices}; the inventory says {spread(model)}"
        yield Finding(kind=FindingKind.TENSOR_PARALLEL_DIFFERS, host=host, model=row.id, message=message)


def _expected(neuron: NeuronHost, seen: NeuronSeen, fleet: Fleet) -> Iterator[Finding]:
    """The models that belong on this host by the inventory and are not loaded on it."""
    if seen.models is None or neuron.drained:
        return
    rows = {row.id: row for row in seen.models}
    said = {ModelStatus.LOADED, ModelStatus.FAILED, ModelStatus.RECOVERING}  # well, or a finding already
    for model in fleet.models:
        keys = [key for key in ("preload_on", "pinned_on") if neuron.name in getattr(model, key)]
        row = rows.get(model.id)
        if keys and (row is None or row.status not in said):
            state = "unknown to the host" if row is None else _progress(row)
            message = f"{model.id} is {state}; its {' and '.join(keys)} names this host"
            yield Finding(kind=FindingKind.MODEL_NOT_LOADED, host=seen.name, model=model.id, message=message)


def _progress(row: ModelRow) -> str:
    return f"{row.status} ({row.progress.phase} {row.progress.fraction:.0%})" if row.progress else str(row.status)
