"""`cortex-neuron doctor` whose ranks have one fault: `python faulty_doctor.py --tp 2 --devices cpu`.

`fault.json` beside the folder of its sockets says which rank does what when it comes to which frame:

    {"rank": n, "op": "init" | "sanity_check" | "measure", "action": "kill" | "hang" | "spoil"}

This is the ranks' module, too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from cortex_neuron.cli import _parser
from cortex_neuron.protocol import frames


class Fault:
    def __init__(self, address: str, own_rank: int) -> None:
        order = json.loads((Path(address.removeprefix("ipc://")).parents[1] / "fault.json").read_text())
        self.op = order["op"] if order.get("rank") == own_rank else None
        self.action = order.get("action")

    def at(self, frame: frames.Frame) -> None:
        """The rank comes to this frame."""
        if frame.__struct_config__.tag == self.op:
            match self.action:
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "hang":
                    os.kill(os.getpid(), signal.SIGSTOP)
                case "spoil":
                    _spoil()


def _spoil() -> None:
    """One number of what this rank gets is wrong from now on."""
    from cortex_neuron.engine.communicator import Communicator

    summed = Communicator.all_reduce

    def all_reduce(self, tensor):
        summed(self, tensor)[-1] += 1
        return tensor

    Communicator.all_reduce = all_reduce


def main(address: str, own_rank: int, world_size: int) -> None:
    """Like cortex_neuron.doctor.rank.main."""
    from cortex_neuron.doctor import rank

    fault = Fault(address, own_rank)

    class FaultyWorker(rank.DoctorWorker):
        def perform(self, frame):
            fault.at(frame)
            return super().perform(frame)

    told = rank.DoctorPeers.tell

    def tell(self, frame):
        fault.at(frame)
        return told(self, frame)

    rank.DoctorPeers.tell = tell
    rank.main(address, own_rank, world_size, FaultyWorker)


if __name__ == "__main__":
    from cortex_neuron.doctor import command

    sys.exit(command.run(_parser().parse_args(["doctor", *sys.argv[1:]]), None, "faulty_doctor"))
