"""A document as tables for people.

Owns: words and columns. Does not own: how they are shown (tables.py) or any judgement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.text import Text

from cortex_contracts.inventory.fleet import Fleet
from cortex_contracts.wire.neuron import DeviceHealth, DeviceSpec, Health, ModelHealth, ModelRow, ModelStatus
from cortex_status.fleet_status.document import Document, Verdict
from cortex_status.fleet_status.findings import Finding
from cortex_status.fleet_status.observed import GatewaySeen, NeuronSeen, Observed
from cortex_status.tables import UNKNOWN, line, table


def parts(document: Document, fleet: Fleet) -> list[RenderableType]:
    """What is shown, top to bottom; the findings last, where a terminal stops scrolling."""
    if document.verdict is Verdict.INVENTORY_UNUSABLE:
        return [line(problem) for problem in document.inventory_problems]
    observed = document.observed
    tables = (
        table("Gateways", "NAME URL STATE VERSION UP >NEURONS >MODELS >RUNNING", map(_gateway, observed.gateways)),
        table("Hosts", "NAME URL STATE VERSION UP DRIVER CUDA", map(_neuron, observed.neurons)),
        table("Devices", "HOST >DEVICE NAME >VRAM >BUSY >TEMP", _devices(observed.neurons)),
        table(
            "Models", "MODEL HOST STATE HARNESS DEVICES >VRAM >CONTEXT >RUNNING >QUEUED >KV", _models(fleet, observed)
        ),
    )
    return [*filter(None, tables), Text("\n").join(_summary(document))]


def _gateway(seen: GatewaySeen) -> Sequence[str]:
    if not seen.answers:
        return (seen.name, seen.url, _silence(seen))
    health, catalogue = seen.health, seen.catalogue
    neurons = health.neurons if health else None
    believed = UNKNOWN if neurons is None else f"{sum(n.healthy is True for n in neurons)}/{len(neurons)}"
    running = health.in_flight if health else None
    return (
        seen.name,
        seen.url,
        (health.status or UNKNOWN) if health else _silence(seen),
        seen.version or UNKNOWN,
        _duration(health.uptime_secs if health else None),
        believed,
        str(len(catalogue.data)) if catalogue else UNKNOWN,
        UNKNOWN if running is None else str(running),
    )


def _neuron(seen: NeuronSeen) -> Sequence[str]:
    if not seen.answers:
        return (seen.name, seen.url, _silence(seen))
    health, discovery = seen.health, seen.discovery
    return (
        seen.name,
        seen.url,
        _state(health) if health else _silence(seen),
        seen.version or UNKNOWN,
        _duration(health.uptime_secs if health else None),
        (discovery.driver_problem or discovery.driver_version or UNKNOWN) if discovery else UNKNOWN,
        (discovery.cuda_version or UNKNOWN) if discovery else UNKNOWN,
    )


def _state(health: Health) -> str:
    wanted = health.activation.wanted
    if not wanted or len(health.activation.loaded) >= len(wanted):
        return health.state
    return f"{health.state} ({len(health.activation.loaded)} of {len(wanted)} models)"


def _silence(seen: GatewaySeen | NeuronSeen) -> str:
    if not seen.problems:
        return UNKNOWN
    problem = seen.problems[0]
    return f"{problem.reason.replace('_', ' ')}: {problem.message}"


def _devices(neurons: Iterable[NeuronSeen]) -> Iterable[Sequence[str]]:
    for seen in neurons:
        specs = {spec.index: spec for spec in seen.discovery.devices} if seen.discovery else {}
        healths = {health.index: health for health in seen.health.devices} if seen.health else {}
        for index in sorted(specs.keys() | healths.keys()):
            yield (seen.name, str(index), *_device(specs.get(index), healths.get(index)))


def _device(spec: DeviceSpec | None, health: DeviceHealth | None) -> Sequence[str]:
    total = spec.vram_total_mb if spec else health.vram_used_mb + health.vram_free_mb if health else None
    busy = health.utilization_pct if health else None
    celsius = health.temp_c if health else None
    return (
        spec.name if spec else UNKNOWN,
        f"{_gib(health.vram_used_mb if health else None)}/{_gib(total)} GiB",
        UNKNOWN if busy is None else f"{busy} %",
        UNKNOWN if celsius is None else f"{celsius} °C",
    )


def _models(fleet: Fleet, observed: Observed) -> Iterable[Sequence[str]]:
    """A row for each model on each host, also where its sleep has ended ill; a declared one that is nowhere has one."""
    rows: dict[str, list[Sequence[str]]] = {model.id: [] for model in fleet.models}
    for seen in observed.neurons:
        healths = {health.id: health for health in seen.health.models} if seen.health else {}
        for row in seen.models or []:
            if row.status is not ModelStatus.UNLOADED or row.failure is not None:
                rows.setdefault(row.id, []).append(_model(seen.name, row, healths.get(row.id)))
    for model, places in rows.items():
        yield from places or [(model, UNKNOWN, "not loaded")]


def _model(host: str, row: ModelRow, health: ModelHealth | None) -> Sequence[str]:
    return (
        row.id,
        host,
        _model_state(row),
        row.harness,
        ",".join(map(str, row.devices)) or UNKNOWN,
        f"{_gib(row.vram_used_mb)} GiB",
        UNKNOWN if row.context is None else str(row.context),
        str(health.in_flight) if health else UNKNOWN,
        str(health.queue_depth) if health else UNKNOWN,
        f"{health.kv_blocks_free}/{health.kv_blocks_total} free" if health and health.kv_blocks_total else UNKNOWN,
    )


def _model_state(row: ModelRow) -> str:
    if row.progress is not None and row.status is not ModelStatus.LOADED:
        return f"{row.status} ({row.progress.fraction:.0%}, {row.progress.phase})"
    if row.failure is not None and row.status is not ModelStatus.LOADED:
        return f"{row.status}: {row.failure.kind}"
    if row.host_memory_mb:
        return f"{row.status} ({_gib(row.host_memory_mb)} GiB of the host)"
    return f"{row.status} (pinned by an operator)" if row.pinned else row.status


def _summary(document: Document) -> list[Text]:
    findings = document.findings
    if document.verdict is Verdict.WELL:
        return [Text("All is well and as declared.", style="green")]
    nothing = document.verdict is Verdict.NOTHING_ANSWERS
    count = "Nothing answers." if nothing else f"{len(findings)} finding{'s' if len(findings) > 1 else ''}:"
    return [Text(count, style="bold red"), *map(_finding, findings)]


def _finding(finding: Finding) -> Text:
    return (
        Text("  ")
        .append(finding.kind, style="yellow")
        .append("  ")
        .append(line(f"{finding.host or 'fleet'}: {finding.message}"))
    )


def _gib(megabytes: int | None) -> str:
    return UNKNOWN if megabytes is None else f"{megabytes / 1024:.1f}"


def _duration(seconds: float | None) -> str:
    """The two largest units, such as 3d 4h."""
    if seconds is None:
        return UNKNOWN
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    d, h = divmod(hours, 24)
    parts = [(d, "d"), (h, "h"), (m, "m"), (s, "s")]
    first = next((place for place, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2])
