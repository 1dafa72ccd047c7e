"""What this neuron's engines are forked from, begun before the daemon imports its own modules.

Owns: when that begins, and the environment that engines inherit. Does not own: the fork server (group.fork_server), or
what it imports (preload_choice). Called by: cli. To import torch is the longest part of a neuron's start, so it is the
first, beside what the daemon imports.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

from cortex_contracts.inventory.fleet import DeviceChoice, Model
from cortex_neuron.configuration import Configuration
from cortex_neuron.group.fork_server import start_fork_server
from cortex_neuron.preload_choice import preload_for


def begin(known: Configuration, preload: str | None = None) -> Future[None]:
    """Start the fork server; done once it runs, and imports. The module is for tests."""
    # Engine processes inherit these through the fork server, and some are read when torch is imported.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as NVML counts
    os.environ.update(known.settings.environment)
    begun: Future[None] = Future()
    begun.set_running_or_notify_cancel()
    work = partial(_begin, begun, preload, known.settings.devices, known.models)
    if preload is not None or known.settings.devices == "cpu":
        work()
    else:  # a driver may take seconds to say what there is
        threading.Thread(target=work, name="fork-source", daemon=True).start()
    return begun


def _begin(begun: Future[None], preload: str | None, choice: DeviceChoice, models: Sequence[Model]) -> None:
    try:
        start_fork_server(preload or preload_for(_kind(choice), models))
    except Exception as failure:  # noqa: BLE001  whoever waits is told
        begun.set_exception(failure)
    else:
        begun.set_result(None)


def _kind(choice: DeviceChoice) -> str:
    """What engines will compute on."""
    if choice == "cpu":
        return choice
    from cortex_neuron.hardware import devices

    return devices.read(choice).kind
