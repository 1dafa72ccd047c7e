"""The gateway as operators run it: the `cortex-gateway` command on free ports, with its log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from free_ports import free_port
from scripted_neuron import ScriptedNeuron

BIN = Path(sys.executable).parent
CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"


@dataclass
class RunningGateway:
    """Its address, its process, its log lines so far, and a session to talk to it."""

    url: str
    metrics_url: str
    folder: Path
    process: asyncio.subprocess.Process
    http: aiohttp.ClientSession
    log: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, model: str, path: str = CHAT, stream: bool = False, **more: Any) -> Any:
        """An inference request, as an async context manager over the response."""
        turns = [{"role": "user", "content": "Hi"}]
        asked = {"input": turns, "max_output_tokens": 9} if path == RESPONSES else {"messages": turns, "max_tokens": 9}
        return self.http.post(self.url + path, json={"model": model, "stream": stream, **asked, **more})

    async def text(self, model: str, path: str = CHAT, **more: Any) -> str:
        """The whole body of a streamed answer, as text."""
        async with self.ask(model, path, stream=True, **more) as response:
            assert response.status == 200, await response.text()
            return (await response.read()).decode()

    async def get(self, path: str, **headers: str) -> Any:
        """The JSON of a page."""
        async with self.http.get(self.url + path, headers=headers) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def metrics(self) -> dict[str, float]:
        """Every series of /metrics by its name and labels."""
        async with self.http.get(self.metrics_url + "/metrics") as response:
            lines = [line for line in (await response.text()).splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    async def line_of(self, request_id: str) -> dict[str, Any]:
        """The one terminal log line of a request."""
        await until(lambda: any(self._lines(request_id)))
        lines = self._lines(request_id)
        assert len(lines) == 1, lines
        return lines[0]

    async def logged(self, event: str) -> dict[str, Any]:
        """The first line of an event."""
        await until(lambda: any(line["event"] == event for line in self.log))
        return next(line for line in self.log if line["event"] == event)

    async def health(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """/health, once it is as wanted."""
        found: dict[str, Any] = {}

        async def is_so() -> bool:
            found.update(await self.get("/health"))
            return wanted(found)

        await until_async(is_so)
        return found

    def _lines(self, request_id: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == "request" and line["request_id"] == request_id]


async def until(is_so: Callable[[], bool], timeout_s: float = 15) -> None:
    """Wait until something is so; fail when it does not become so."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not become so"
        await asyncio.sleep(0.01)


async def until_async(is_so: Callable[[], Any], timeout_s: float = 15) -> None:
    """The same, of something that must be asked."""
    deadline = time.monotonic() + timeout_s
    while not await is_so():
        assert time.monotonic() < deadline, "it did not become so"
        await asyncio.sleep(0.02)


def model_entry(model_id: str, **fields: Any) -> dict[str, Any]:
    """An entry of models.toml."""
    return {"id": model_id, "source": "-", "vram_mb": 1000, **fields}


def write_config(
    folder: Path, neurons: list[ScriptedNeuron], models: list[dict[str, Any]], ports: tuple[int, int], **settings: Any
) -> None:
    """Both files."""
    known = {"poll_interval_s": 0.1, "drain_timeout_s": 3.0, "idle_timeout_s": 5.0, **settings}
    lines = ["[gateway]", f'listen = "127.0.0.1:{ports[0]}"', f'metrics_listen = "127.0.0.1:{ports[1]}"']
    after = known.pop("defrag_after_cycles", 0)
    lines += [f"{key} = {json.dumps(value)}" for key, value in known.items()]
    lines += ["[eviction]", f"defrag_after_cycles = {after}"]
    for neuron in neurons:
        lines += ["[[neurons]]", f'name = "{neuron.name}"', f'url = "{neuron.url}"']
    (folder / "cortex.toml").write_text("\n".join(lines))
    entries = ["[[models]]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in model.items()) for model in models]
    (folder / "models.toml").write_text("\n".join(entries))


@asynccontextmanager
async def running(
    folder: Path, neurons: list[ScriptedNeuron], models: list[dict[str, Any]], exit_code: int = 0,
    program: Path = BIN / "cortex-gateway", environment: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[RunningGateway]:  # fmt: skip
    """A gateway that has asked every neuron once; stopped at the end, and it must stop well, or as is expected.

    A keys.toml that lies in `folder` is used.
    """
    ports = (free_port(), free_port())
    write_config(folder, neurons, models, ports, **settings)
    command = [str(program), "--config", str(folder / "cortex.toml")]
    if (folder / "keys.toml").exists():
        command += ["--keys", str(folder / "keys.toml")]
    process = await asyncio.create_subprocess_exec(
        *command, "--models", str(folder / "models.toml"), stderr=asyncio.subprocess.PIPE, limit=2**20,
        env={**os.environ, "PYTHONWARNINGS": "error", **(environment or {})},
    )  # fmt: skip
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
        api, metrics = (f"http://127.0.0.1:{port}" for port in ports)
        gateway = RunningGateway(api, metrics, folder, process, http)
        reading = asyncio.create_task(_read_log(gateway))
        try:
            await gateway.logged("serving")
            yield gateway
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                await process.wait()
            await reading
    assert process.returncode == exit_code, (process.returncode, gateway.log)
    assert not [line for line in gateway.log if line["event"] == "internal_error" or "traceback" in line], gateway.log


async def _read_log(gateway: RunningGateway) -> None:
    assert gateway.process.stderr is not None
    async for line in gateway.process.stderr:
        try:
            gateway.log.append(json.loads(line))
        except ValueError:  # and go on reading: a full pipe would hold the gateway up
            gateway.log.append({"event": "no line of a log", "traceback": line.decode(errors="replace")})
