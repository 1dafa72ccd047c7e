"""The real ranks with one fault, once: `fault.json` beside the daemon's runtime folder says which rank does what, when.

    {"phase": "spawn" | "init" | "sanity" | "load" | "step" | "unload" | "sleep" | "wake", "rank": n,
     "action": "kill" | "hang" | "raise" | "twice" | "garbage" | "late", "late_s": seconds}

The first process that comes to the point leaves `fired` beside it; those after it are whole. Run through run_rank, as
cortex_neuron.engine.rank is.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cortex_neuron.engine import leader, mailbox, rank
from cortex_neuron.engine.mailbox import Mailbox
from cortex_neuron.engine.runner import Runner
from cortex_neuron.engine.worker import Worker
from cortex_neuron.protocol import frames

GARBAGE = b"\xc1 no frame"
_PHASES: dict[type[frames.Frame], str] = {
    frames.Init: "init",
    frames.SanityCheck: "sanity",
    frames.Load: "load",
    frames.Step: "step",
    frames.Shutdown: "unload",
    frames.Sleep: "sleep",
    frames.Wake: "wake",
}
# What rank 0 says to the daemon while it is in a phase.
_SAID: dict[str, type[frames.Frame]] = {
    "init": frames.LoadProgress,
    "sanity": frames.LoadProgress,
    "load": frames.Loaded,
    "step": frames.Stepped,
    "unload": frames.Bye,
}


class InjectedFault(Exception):
    """Raised where the fault is to raise."""


class Fault:
    """The fault of this process, if it has one."""

    def __init__(self, address: str, own_rank: int) -> None:
        self._folder = Path(address.removeprefix("ipc://")).parent.parent
        try:
            self._order: dict[str, Any] = json.loads((self._folder / "fault.json").read_text())
        except FileNotFoundError:
            self._order = {}
        self.mine = self._order.get("rank") == own_rank
        self._armed = ""  # how the next answer is to be spoilt

    def at(self, phase: str) -> None:
        """The process comes to a phase: what is to happen before its work happens here."""
        if not (self.mine and self._order["phase"] == phase and self._fires()):
            return
        match self._order["action"]:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "raise":
                raise InjectedFault(f"the order was to fail in {phase}")
            case "late":
                time.sleep(self._order["late_s"])
            case action:
                self._armed = action

    def spoilt(self) -> str:
        """How the answer at hand is to be spoilt; once."""
        armed, self._armed = self._armed, ""
        return armed

    def _fires(self) -> bool:
        try:
            (self._folder / "fired").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class FaultyWorker(Worker):
    """A worker with a fault."""

    fault: Fault

    def perform(self, frame: frames.ToWorker) -> frames.FromWorker | None:
        if (phase := _PHASES.get(type(frame))) is not None:
            self.fault.at(phase)
        return super().perform(frame)

    def reply(self, frame: frames.FromWorker) -> None:
        match self.fault.spoilt():
            case "twice":
                super().reply(frame)
            case "garbage":
                self._line._socket.send(GARBAGE)
                return
        super().reply(frame)


def main(address: str, own_rank: int, world_size: int) -> None:
    """Like cortex_neuron.engine.rank.main."""
    os.nice(10)  # many cases run beside each other: what is measured is the daemons' doing
    fault = Fault(address, own_rank)
    fault.at("spawn")
    if fault.mine:
        _spoil_mailbox(fault)
        _spoil_rank0(fault)
    FaultyWorker.fault = fault
    rank.main(address, own_rank, world_size, FaultyWorker)


def _spoil_mailbox(fault: Fault) -> None:
    """Spoil what this rank says to the daemon: its hello, or as rank 0 all it says."""
    send, garbage = Mailbox.send, object()
    encode = mailbox.encode
    mailbox.encode = lambda frame: GARBAGE if frame is garbage else encode(frame)  # type: ignore[comparison-overlap]

    def spoilt(self: Mailbox, frame: Any) -> None:
        phase = fault._order["phase"]
        says = phase == "spawn" or (self._rank == 0 and isinstance(frame, _SAID.get(phase, ())))
        match fault.spoilt() if says else "":
            case "twice":
                send(self, frame)
            case "garbage":
                frame = garbage
        send(self, frame)

    Mailbox.send = spoilt  # type: ignore[method-assign]


def _spoil_rank0(fault: Fault) -> None:
    """The leader's own part of each phase."""

    def wrapped(call: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def at_first(*arguments: Any, **named: Any) -> Any:
            fault.at(phase)
            return call(*arguments, **named)

        return at_first

    if fault._order["rank"] == 0:
        leader._init = wrapped(leader._init, "init")
        leader._check = wrapped(leader._check, "sanity")
        rank.bring_up = wrapped(rank.bring_up, "load")
        Runner.run = wrapped(Runner.run, "step")  # type: ignore[method-assign]
        leader.Leader.shutdown = wrapped(leader.Leader.shutdown, "unload")  # type: ignore[method-assign]
        rank.Rank0._sleep = wrapped(rank.Rank0._sleep, "sleep")  # type: ignore[method-assign]
        rank.Rank0._wake = wrapped(rank.Rank0._wake, "wake")  # type: ignore[method-assign]
