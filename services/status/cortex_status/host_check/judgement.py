"""What is wrong with the hosts of a fleet: a line each, in the words of the inventory's check.

Owns: what is expected. Pure: no I/O, no clock. Called by: the filters of ansible/plugins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cortex_contracts.inventory.fleet import Fleet, Model, NeuronHost
from cortex_status.bundle.command import Bundle
from cortex_status.bundle.target import OLDEST_PYTHON
from cortex_status.host_check.answers import Answer, Silence
from cortex_status.host_check.questions import Question

# The time of asking is taken before the probe is copied there, which a slow link makes a few seconds.
SKEW_S = 10.0
# Wheels, unpacked and compiled, by the size of their archive; as roles/cortex_common/tasks/dependencies.yml has it.
ROOM_FACTOR = 5
_MB = 1_000_000

Answers = Mapping[str, Answer]


@dataclass(frozen=True)
class Need:
    """What hosts of a kind install beside cortex itself, and the size of the archive that brings it."""

    dependencies: str
    archive_bytes: int


def problems(
    fleet: Fleet, asked: Mapping[str, Question], told: Mapping[str, Answer | Silence], needs: Mapping[str, Need]
) -> list[str]:
    """Every problem of every host that was asked; `needs` are by the kind of host, of those that are built."""
    answers = {name: each for name, each in told.items() if isinstance(each, Answer)}
    found: list[str] = []
    for name, each in told.items():
        lines = [_words(each)] if isinstance(each, Silence) else list(_of_host(asked[name], each, needs))
        lines += _of_gpus(name, fleet, answers) + _of_contacts(name, fleet, answers) + _of_sources(name, fleet, answers)
        found += [f"host {name}: {line}" for line in lines]
    return found + _nowhere(fleet, told, answers)


def kind(question: Question, answer: Answer) -> str | None:
    """What is installed there, as `cortex bundle` is told; None where the host's Python will not do."""
    if answer.python is None or answer.python < OLDEST_PYTHON:
        return None
    return f"{'+'.join(question.programs_of)}:{'.'.join(map(str, answer.python))}:{answer.machine}"


def kinds(asked: Mapping[str, Question], told: Mapping[str, Answer | Silence]) -> list[str]:
    """Of all hosts, each once."""
    found = {kind(asked[name], each) for name, each in told.items() if isinstance(each, Answer)}
    return sorted(each for each in found if each is not None)


def needs(bundle: Bundle) -> dict[str, Need]:
    """By kind, of what is built."""
    return {
        part.kind: Need(part.dependencies, part.archive.stat().st_size)
        for part in bundle.parts
        if part.dependencies and part.archive
    }


def _words(silence: Silence) -> str:
    return f"{silence.what}: should {silence.expected}, {silence.found}"


def _of_host(question: Question, answer: Answer, needs: Mapping[str, Need]) -> Iterable[str]:
    yield from _python(question, answer)
    if question.systemd and not answer.systemd:
        yield "cortex_service_manager: should be what runs the host, is systemd, which does not"
    skew = answer.time - answer.asked_at
    if abs(skew) > SKEW_S:
        way = "ahead" if skew > 0 else "behind"
        yield f"clock: should be this machine's within {SKEW_S:.0f} s, is {abs(skew):.0f} s {way}"
    need = needs.get(kind(question, answer) or "")
    wanted = need.archive_bytes * ROOM_FACTOR if need and need.dependencies not in answer.dependencies else 0
    if answer.room_bytes < wanted:
        yield f"{question.root}: should have {wanted // _MB} MB free, has {answer.room_bytes // _MB} MB"
    for port in question.ports:
        if port.number in answer.taken and not answer.is_running(port.unit, port.number):
            yield f"{port.variable}: should be a free port, {port.number} is taken by {answer.taken[port.number].by}"
    for variable, path in question.programs.items():
        if not answer.executable.get(path):
            yield f"{variable}: should be a program of the host, {path} is none"
    for name in answer.unresolved:
        yield f"name {name}: should have an address here, has none"


def _python(question: Question, answer: Answer) -> Iterable[str]:
    expected = f"cortex_python: should be Python {'.'.join(map(str, OLDEST_PYTHON))} or later, {question.python}"
    if answer.python is None:
        yield f"{expected} does not run: {answer.python_reason}"
    elif answer.python < OLDEST_PYTHON:
        yield f"{expected} is {'.'.join(map(str, answer.python))}"


def _of_gpus(name: str, fleet: Fleet, answers: Answers) -> list[str]:
    neuron = _neuron(fleet, name)
    if neuron is None or neuron.devices == "cpu" or name not in answers:
        return []
    gpus = answers[name].gpus
    if gpus.on_bus and gpus.driven is None:
        remedy = "; reboot it" if "mismatch" in gpus.reason else ""
        return [f"NVIDIA driver: should answer for {gpus.on_bus} GPUs, {gpus.reason}{remedy}"]
    driven = gpus.driven or 0
    if neuron.devices != "all" and max(neuron.devices) >= driven:
        return [f"neuron_devices: should be of the host's {driven} GPUs, is {list(neuron.devices)}"]
    if driven < gpus.on_bus:
        return [f"NVIDIA driver: should have all {gpus.on_bus} GPUs of the host, has {driven}"]
    return []


def _of_contacts(name: str, fleet: Fleet, answers: Answers) -> list[str]:
    if name not in answers:
        return []
    found = []
    for peer, contact in answers[name].neurons.items():
        neuron = _neuron(fleet, peer)
        if neuron is None or contact.outcome == "open":
            continue
        there = answers.get(peer)
        runs = there is not None and there.is_running("cortex-neuron", neuron.port)
        if contact.outcome == "refused" and not runs:
            continue  # the host answers, and nothing of ours listens there yet
        hint = "" if runs or contact.outcome == "unresolved" else " (no neuron runs there yet; a firewall may be shut)"
        found.append(f"neuron {peer}: should be reachable at {neuron.address}:{neuron.port}, {contact.reason}{hint}")
    return found


def _of_sources(name: str, fleet: Fleet, answers: Answers) -> list[str]:
    if name not in answers:
        return []
    present = answers[name].present
    return [
        f"model {model.id}: should have {model.source} here, where the inventory {word} it, has not"
        for model in fleet.models
        if present.get(model.id) is False and (word := _wanted(model, name))
    ]


def _wanted(model: Model, host: str) -> str:
    return "preloads" if host in model.preload_on else "pins" if host in model.pinned_on else ""


def _nowhere(fleet: Fleet, told: Mapping[str, Answer | Silence], answers: Answers) -> list[str]:
    """Local sources that no neuron has; it can be said only where each was asked and has answered."""
    names = [neuron.name for neuron in fleet.neurons]
    if not names or not all(name in answers for name in names):
        return []
    return [
        f"cortex_models: {model.id}: source {model.source} should be on a neuron, is on none"
        for model in fleet.models
        if not (model.preload_on or model.pinned_on)
        and all(answers[name].present.get(model.id) is False for name in names)
    ]


def _neuron(fleet: Fleet, name: str) -> NeuronHost | None:
    return next((host for host in fleet.neurons if host.name == name), None)
