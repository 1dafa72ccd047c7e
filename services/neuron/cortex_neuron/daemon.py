"""The neuron's daemon put together: parts made, started and stopped in order.

Owns: the order. Does not own: any part. Called by: cli, once fork_source has begun. The process imports no torch.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import prometheus_client
import uvloop

from cortex_neuron.api import application
from cortex_neuron.api.metrics import Metrics
from cortex_neuron.api.neuron import Neuron
from cortex_neuron.configuration import Configuration
from cortex_neuron.group.fork_server import stop_fork_server
from cortex_neuron.hardware.devices import DeviceWatch
from cortex_neuron.in_effect import InEffect
from cortex_neuron.residency import text_folders
from cortex_neuron.residency.activation import Preloads
from cortex_neuron.residency.drain_mark import DrainMark
from cortex_neuron.residency.harness import Harness
from cortex_neuron.residency.loading import Loader
from cortex_neuron.residency.residency import Residency
from cortex_serving import logs, tracing
from cortex_serving.server import CannotListen, Lifecycle, Listener, serve

RANK_MODULE = "cortex_neuron.engine.rank"


def run(
    known: Configuration,
    read_again: Callable[[], Configuration],
    fork_source: Future[None],
    rank_module: str = RANK_MODULE,
) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. `read_again` is for SIGHUP, `fork_source` is begun already, the
    module is for tests."""
    logs.configure()
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # a series for each series, which nobody reads
    try:
        uvloop.run(_serve(known, read_again, fork_source, rank_module))
    except (CannotListen, OSError) as failure:
        logs.error("cannot_start", message=str(failure))
        return 1
    finally:
        stop_fork_server()
    return 0


async def _serve(
    known: Configuration, read_again: Callable[[], Configuration], fork_source: Future[None], rank_module: str
) -> None:
    settings = known.settings
    devices = DeviceWatch(settings.devices)
    harnesses: dict[str, Harness] = {"torch": Loader(settings, rank_module)}
    if settings.vllm_bin:
        from cortex_neuron.vllm.harness import VllmHarness  # an HTTP client with it

        harnesses["vllm"] = VllmHarness(settings)
    residency = Residency(settings, known.models, devices, harnesses, DrainMark(settings.runtime_dir))
    preloads = Preloads(settings.name, residency)
    in_effect = InEffect(known, read_again, residency, preloads)
    metrics = Metrics(residency, devices)
    tracer = tracing.start(settings.otlp_endpoint, "cortex-neuron", settings.name)
    neuron = Neuron(settings, devices, residency, preloads, metrics, version("cortex"), tracer, in_effect.files)

    started = asyncio.Event()

    async def start() -> None:
        _prepare_folder(Path(settings.runtime_dir))  # once the port is ours: another daemon may be using it
        await devices.start()
        await asyncio.wrap_future(fork_source)
        preloads.start()
        started.set()

    async def reload() -> None:
        await started.wait()  # what a new catalogue loads needs all of the above
        await in_effect.reload()

    async def stop() -> None:
        await preloads.stop()
        await residency.stop()
        await asyncio.to_thread(stop_fork_server)
        shutil.rmtree(Path(settings.runtime_dir, text_folders.NAME), ignore_errors=True)
        await devices.stop()
        if tracer is not None:
            await tracer.stop()

    listener = Listener(application.build(neuron), settings.bind, settings.port)
    await serve([listener], Lifecycle(start=start, stop=stop, reload=reload))


def _prepare_folder(runtime_dir: Path) -> None:
    """Make the folder of sockets, and clear it of what a killed daemon left; a mark that the neuron is drained stays.

    Raises OSError, which names the key.
    """
    try:
        runtime_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        for socket in runtime_dir.glob("g*.ipc*"):
            socket.unlink(missing_ok=True)
        for server in runtime_dir.glob("v*.sock"):
            server.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            shutil.rmtree(runtime_dir / text_folders.NAME)
    except OSError as failure:
        raise OSError(f"neuron.runtime_dir: {runtime_dir} cannot be used: {failure}") from failure
