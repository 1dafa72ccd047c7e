"""Every fault of every rank in every phase, against the real daemon and ranks over gloo: what clients see, how soon the
group is gone, and that the next load succeeds.

Owns: the cases and how one is judged. Called by: __main__.py (make faults), test_fault_matrix.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuron_process import RunningNeuron, running_neuron, until

FAULTY = [sys.executable, str(Path(__file__).with_name("faulty_daemon.py"))]
PHASES = ("spawn", "init", "sanity", "load", "step", "unload")
ACTIONS = ("kill", "hang", "raise", "twice", "garbage", "late")
WORLD_SIZES = (2, 4)
# What befalls a model at rest, by phase: the only rank of a group of one, and the other one of a group of two.
REST = {
    "sleep": ("kill", "hang", "raise", "late"),
    "asleep": ("kill", "hang"),
    "wake": ("kill", "hang", "raise", "late"),
}
REST_RANKS = ((1, 0), (2, 1))
LOAD_S, INIT_S, STEP_S = 12.0, 3.0, 2.0
# By phase: what the group may take until it is given up; a late answer is later than that, but where that is long.
DEADLINES = {"spawn": LOAD_S, "init": INIT_S, "sanity": INIT_S, "load": LOAD_S, "step": STEP_S + 1.0, "unload": 4.0}
DEADLINES |= dict.fromkeys(REST, STEP_S + 1.0)
LATE = {"spawn": 1.0, "init": INIT_S + 1, "sanity": INIT_S + 1, "load": 1.0, "step": STEP_S + 2, "unload": 1.5}
LATE |= dict.fromkeys(REST, 1.0)
GRACE_S = 2.0  # from its deadline until a group is gone
NOTHING_WRONG = "served"
_CONTROL_S = 0.1
_DEADLINE_KINDS = {
    "hello_timeout", "nccl_init_failed", "nccl_sanity_failed", "load_timeout", "ping_timeout", "step_timeout",
}  # fmt: skip
_ENDED_KINDS = {"rank_died", "rank_failed", "ranks_diverged", "nccl_init_failed", "nccl_sanity_failed"}


@dataclass(frozen=True, slots=True)
class Case:
    """One fault."""

    world_size: int
    phase: str
    rank: int
    action: str

    def __str__(self) -> str:
        return f"tp{self.world_size}-{self.phase}-rank{self.rank}-{self.action}"


@dataclass(slots=True)
class Result:
    """What came of it. `told` is the error's code, or "unloaded", and the failure's kind; or "served"."""

    case: Case
    told: str = ""
    gone_s: float = 0.0  # from the fault until no process of its group was left; 0 where it lives on
    back_s: float = 0.0  # from the fault until a request was served again
    control_s: list[float] = field(default_factory=list)  # what each answer of a control endpoint took
    problems: list[str] = field(default_factory=list)


def cases(world_sizes: Iterable[int] = WORLD_SIZES) -> list[Case]:
    """All of them."""
    at_work = [
        Case(world_size, phase, rank, action)
        for world_size in world_sizes
        for phase, rank, action in itertools.product(PHASES, range(world_size), ACTIONS)
    ]
    at_rest = [
        Case(world_size, phase, rank, action)
        for world_size, rank in REST_RANKS
        for phase, actions in REST.items()
        for action in actions
        if (world_size, action) != (1, "late")  # alone it keeps nobody waiting
    ]
    return at_work + at_rest


async def survive(
    chosen: Sequence[Case], model: Path, at_once: int = 4, tell: Callable[[Result], None] = lambda _: None
) -> list[Result]:
    """Run the cases, `at_once` of them beside each other, each in a daemon that has had others before it."""
    waiting = list(reversed(chosen))
    results: list[Result] = []

    async def one_daemon() -> None:
        entries = [
            {"id": f"tp{size}", "source": str(model), "vram_mb": 400, "context": 512, "tensor_parallel": size}
            for size in (1, *WORLD_SIZES)
        ]
        limits = {"load_timeout_s": LOAD_S, "init_timeout_s": INIT_S, "step_timeout_s": STEP_S, "cpu_threads": 1}
        limits |= {"sleep_host_memory_mb": 100}
        async with running_neuron(entries, FAULTY, **limits) as neuron:
            await _warm_up(neuron)
            while waiting:
                result = await _survived(neuron, waiting.pop())
                results.append(result)
                tell(result)

    await asyncio.gather(*(one_daemon() for _ in range(at_once)))
    return results


async def _warm_up(neuron: RunningNeuron) -> None:
    """Load once: the first load waits for the fork server's imports."""
    name = f"tp{WORLD_SIZES[0]}"

    async def loaded() -> bool:
        row = await neuron.row(name)
        if row["status"] in ("unloaded", "failed"):
            await neuron.post("/models/load", {"model_id": name})
        return bool(row["status"] == "loaded")

    await until(loaded, 120.0)
    await neuron.post("/models/unload", {"model_id": name})


async def _survived(neuron: RunningNeuron, case: Case) -> Result:
    result = Result(case)
    order = {"phase": case.phase, "rank": case.rank, "action": case.action, "late_s": LATE[case.phase]}
    (neuron.folder / "fired").unlink(missing_ok=True)
    (neuron.folder / "fault.json").write_text(json.dumps(order))
    probing = asyncio.create_task(_probe(neuron, result))
    watching = asyncio.create_task(_watch(neuron, result))
    try:
        await _provoke(neuron, case, result)
        await _come_back(neuron, case, result)
    except AssertionError as failure:
        result.problems.append(str(failure))
    finally:
        (neuron.folder / "fault.json").unlink()
        probing.cancel()
        watching.cancel()
        await asyncio.gather(probing, watching, return_exceptions=True)
    await _clean_up(neuron, case, result)
    return result


async def _provoke(neuron: RunningNeuron, case: Case, result: Result) -> None:
    """Load, ask, unload, sleep and wake, as far as the phase takes; notes what was told first of anything wrong."""
    name = f"tp{case.world_size}"
    if not await _loads(neuron, case, result):
        return
    answer = await _ask(neuron, name)
    if answer.status != 200:
        result.told = f"{answer.status} {answer.json['error']['code']}, {await _death(neuron, name)}"
        return
    if case.phase == "unload":
        unloaded = await neuron.post("/models/unload", {"model_id": name})
        assert unloaded.json.get("status") == "unloaded", unloaded.text
    if case.phase not in REST or await _rests(neuron, case, result):
        result.told = NOTHING_WRONG


async def _loads(neuron: RunningNeuron, case: Case, result: Result) -> bool:
    """Have it loaded, or woken. False where that has failed, which is noted."""
    name = f"tp{case.world_size}"
    await neuron.post("/models/load", {"model_id": name})
    row = await until(lambda: _settled(neuron, name), LOAD_S * 2)
    if row["status"] == "failed":
        _note(row["failure"], "503 model_failed", case, result)
    return bool(row["status"] == "loaded")


async def _rests(neuron: RunningNeuron, case: Case, result: Result) -> bool:
    """Put it to sleep and, where the fault is not before, have it woken. False where it is unloaded, which is noted."""
    name = f"tp{case.world_size}"
    answer = await neuron.post("/models/unload", {"model_id": name, "level": "sleep"})
    assert answer.status == 200, answer.text
    if case.phase == "asleep":  # from outside: it does nothing itself
        pid = neuron.logged("model_loaded")[-1]["pids"][case.rank]
        (neuron.folder / "fired").touch()
        os.kill(pid, signal.SIGKILL if case.action == "kill" else signal.SIGSTOP)
        await neuron.until_status("unloaded", name, LOAD_S)
    row = await neuron.row(name)
    if row["status"] == "unloaded":
        assert row["failure"] is not None, "it was unloaded without a reason"
        _note(row["failure"], "unloaded", case, result)
        return False
    return case.phase == "sleep" or await _loads(neuron, case, result)


def _note(failure: dict[str, Any], code: str, case: Case, result: Result) -> None:
    result.told = f"{code}, {failure['kind']}"
    if failure["rank"] not in (case.rank, 0) and case.action in ("kill", "hang", "raise"):
        result.problems.append(f"rank {failure['rank']} was blamed: {failure['message']}")


async def _come_back(neuron: RunningNeuron, case: Case, result: Result) -> None:
    """The next load succeeds, and its answer is whole."""
    name = f"tp{case.world_size}"
    fired = neuron.folder / "fired"
    assert fired.exists(), "the fault has not come to pass"
    if (await neuron.row(name))["status"] in ("failed", "unloaded", "sleeping"):
        await neuron.post("/models/load", {"model_id": name})
    await neuron.until_status("loaded", name, LOAD_S * 2)
    answer = await _ask(neuron, name)
    assert answer.status == 200, f"it did not come back: {answer.status} {answer.text}"
    result.back_s = time.time() - fired.stat().st_mtime


async def _clean_up(neuron: RunningNeuron, case: Case, result: Result) -> None:
    """Nothing is left of it: no process, no socket."""
    await neuron.post("/models/unload", {"model_id": f"tp{case.world_size}"})
    left = sorted(_ranks(neuron))
    if left:
        result.problems.append(f"processes are left: {left}")
    files = sorted(path.name for path in (neuron.folder / "run").iterdir() if path.name != "hub")
    if files:
        result.problems.append(f"files are left: {files}")
    slow = [took for took in result.control_s if took > _CONTROL_S]
    # On a machine that runs more processes than it has cores one of a hundred may have waited for its turn.
    if len(slow) > 1 + len(result.control_s) // 50 or max(result.control_s, default=0.0) > 10 * _CONTROL_S:
        result.problems.append(f"{len(slow)} control answers took more than 0.1 s, {max(slow):.2f} s at most")
    deadline = DEADLINES[case.phase] + GRACE_S
    if result.gone_s > deadline:
        result.problems.append(f"the group was gone after {result.gone_s:.1f} s, not {deadline:g}")


async def _ask(neuron: RunningNeuron, name: str) -> Any:
    body = {"model": name, "prompt": [5, 6, 7, 8] * 4, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    return await neuron.post("/v1/completions", body)


async def _settled(neuron: RunningNeuron, name: str) -> Any:
    row = await neuron.row(name)
    return row if row["status"] in ("loaded", "failed") else None


async def _death(neuron: RunningNeuron, name: str) -> str:
    """The kind of the last group's death."""

    async def written() -> list[Any]:
        return [line for line in neuron.log() if line["event"] == "group_died"]

    lines = await until(written)
    return str(lines[-1]["kind"])


async def _watch(neuron: RunningNeuron, result: Result) -> None:
    """Note when the last process of the group that had the fault was gone."""
    fired = neuron.folder / "fired"
    seen = _ranks(neuron)
    while not fired.exists():
        seen = _ranks(neuron) or seen
        await asyncio.sleep(0.02)
    at = fired.stat().st_mtime
    while any(Path(f"/proc/{pid}").exists() for pid in seen):  # noqa: ASYNC110  other processes: nothing tells
        await asyncio.sleep(0.02)
    result.gone_s = time.time() - at


def _ranks(neuron: RunningNeuron) -> set[int]:
    """Pids of the ranks, who are children of the fork server; read so that the daemon gets the time to answer."""
    return {rank for server in _children(neuron.process.pid) for rank in _children(server)}


def _children(pid: int) -> set[int]:
    found: set[int] = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found |= set(map(int, children.read_text().split()))
    return found


async def _probe(neuron: RunningNeuron, result: Result) -> None:
    """Control endpoints answer throughout (case T7)."""
    for path in itertools.cycle(("/health", "/models", "/report")):
        began = time.monotonic()
        await neuron.get(path)
        result.control_s.append(time.monotonic() - began)
        await asyncio.sleep(0.02)


def told(page: str) -> dict[tuple[str, str, bool], set[str]]:
    """What the page says that clients are told, by phase, action and whether it is another rank than 0."""
    words = {text: action for action, text in _WORDS.items()}
    lines = page.partition(_BEGIN)[2].partition(_END)[0].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {
        (phase, words[fault], other): set((another if other else own).split("; "))
        for phase, fault, own, another in cells
        for other in (False, True)
    }


def is_told_by_another(result: Result) -> bool:
    """Whether, on a slow machine, another sign of the same fault was the first: another deadline of a rank that is late
    or hangs, what other ranks met of one that ended, the end of one that had just said why."""
    kind = result.told.rpartition(" ")[2]
    if result.case.action in ("late", "hang"):
        return kind in _DEADLINE_KINDS
    return result.case.action in ("kill", "raise") and kind in _ENDED_KINDS


def table(results: Sequence[Result]) -> str:
    """What clients are told, by phase, fault and rank, as a Markdown table."""
    lines = ["| in | a rank | rank 0 | another rank |", "|---|---|---|---|"]
    for phase, action in itertools.product((*PHASES, *REST), ACTIONS):
        some = [each for each in results if (each.case.phase, each.case.action) == (phase, action)]
        if not some:
            continue
        cells = (sorted({each.told for each in some if bool(each.case.rank) is other}) for other in (False, True))
        lines.append(f"| {phase} | {_WORDS[action]} | " + " | ".join("; ".join(each) or "-" for each in cells) + " |")
    return "\n".join(lines)


_WORDS = {
    "kill": "is killed (-9)",
    "hang": "hangs (SIGSTOP)",
    "raise": "raises",
    "twice": "answers twice",
    "garbage": "answers garbage",
    "late": "answers late",
}


_BEGIN, _END = "<!-- faults -->\n", "<!-- end of faults -->\n"


def written_into(page: str, results: Sequence[Result]) -> str:
    """The page with the table in its place."""
    before, _, rest = page.partition(_BEGIN)
    after = rest.partition(_END)[2]
    return f"{before}{_BEGIN}\n{table(results)}\n\n{_END}{after}"


def worst(results: Sequence[Result]) -> list[tuple[str, str]]:
    """The figures that stand beside the count."""
    gone = max(results, key=lambda each: each.gone_s)
    back = max(results, key=lambda each: each.back_s)
    control = sorted(took for each in results for took in each.control_s)
    return [
        ("worst time until a group was gone", f"{gone.gone_s:.2f} s ({gone.case})"),
        ("worst time until a request was served again", f"{back.back_s:.2f} s ({back.case})"),
        ("control answers: median", f"{control[len(control) // 2] * 1000:.1f} ms of {len(control)}"),
        ("control answers: 99.9 %", f"{control[len(control) * 999 // 1000] * 1000:.0f} ms"),
    ]
