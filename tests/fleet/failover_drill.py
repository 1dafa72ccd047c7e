"""The failover drill: three real neurons, of which one is killed, one hung and one slow, under many streams through a
real gateway.

Owns: the course of it, what each request came to, and the figures. Does not own: what is good enough
(test_failover_drill.py). Called by: that test, and `python -m tests.bench failover`.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiohttp
import gateway_process
from gateway_process import CHAT, MESSAGES, RunningGateway
from neuron_process import SCRIPTED, RunningNeuron, chat_body, files, running_neuron
from scripted_model import write_model

KILLED, HUNG, SLOW = "killed", "hung", "slow"
MODEL = "echo"
SLOWER = 3  # times as long a step of the slow neuron takes
WORDS = 40
REPLY = "".join(f"{number:02} " for number in range(WORDS))
FIRST_WORD = REPLY[:3].encode()
_TOKENS_PER_STEP = 3  # one word of REPLY: tokens are bytes
_PAUSE_S = 0.02
_RECOVERY_S = 60.0


class Ended(StrEnum):
    """What a client can say of its request."""

    COMPLETE = "complete"  # the whole text and its terminator
    TOLD = "told"  # an error event, an error status, or a broken connection
    CUT = "cut"  # a clean end of something else: what must never be


@dataclass
class Asked:
    """One request and what came of it. Times by time.monotonic."""

    request_id: str
    stream: bool
    anthropic: bool
    began: float
    ended: Ended = Ended.CUT
    over: float = 0.0
    longest_gap_s: float = 0.0  # between two words of the answer
    said: str = ""  # the end of what came, for the reader of a failure


@dataclass
class Course:
    """What happened when, and every request."""

    asked: list[Asked] = field(default_factory=list)
    broke_at: float = 0.0
    whole_at: float = 0.0
    out_after_s: dict[str, float] = field(default_factory=dict)  # by neuron
    back_after_s: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[str, Any]] = field(default_factory=dict)  # the gateway's, by request id
    upstream_errors: Counter[str] = field(default_factory=Counter)  # by reason

    def figures(self) -> dict[str, float]:
        """The measurements, in the order of a table."""
        kinds = Counter(each.ended for each in self.asked)
        untouched = [each for each in self.asked if self.on(each) == SLOW and each.began < self.broke_at < each.over]
        return {
            "requests": len(self.asked),
            "complete": kinds[Ended.COMPLETE],
            "told_of_the_break": kinds[Ended.TOLD],
            "silently_cut": kinds[Ended.CUT],
            "retried_elsewhere": self.retried(),
            "killed_out_of_rotation_s": self.out_after_s[KILLED],
            "hung_out_of_rotation_s": self.out_after_s[HUNG],
            "longest_gap_of_unaffected_s": max((each.longest_gap_s for each in untouched), default=0.0),
            "killed_is_back_s": self.back_after_s[KILLED],
            "hung_is_back_s": self.back_after_s[HUNG],
        }

    def on(self, asked: Asked) -> str:
        """The neuron that had it last."""
        return str(self.lines.get(asked.request_id, {}).get("neuron", ""))

    def retried(self) -> int:
        """Attempts that failed before their first byte; each was answered by another neuron where none failed."""
        return sum(self.upstream_errors[reason] for reason in ("connect", "lost", "timeout", "down"))


async def drill(folder: Path, streams: int = 200, calm_s: float = 1.5) -> Course:
    """Run it: calm, the break, until both neurons are out, until both are back, calm again."""
    course = Course()
    async with AsyncExitStack() as resources:
        neurons = {name: await resources.enter_async_context(_neuron(folder, name)) for name in (KILLED, HUNG, SLOW)}
        for neuron in neurons.values():
            await neuron.until_status("loaded", MODEL)
        gateway = await resources.enter_async_context(
            gateway_process.running(
                folder, list(neurons.values()), [gateway_process.model_entry(MODEL)],  # type: ignore[arg-type]
                poll_interval_s=0.2, idle_timeout_s=4.0, drain_timeout_s=10.0,
            )
        )  # fmt: skip
        clients = await resources.enter_async_context(_Clients(gateway, course, streams))
        await clients.until_each_has_asked(twice_after=time.monotonic() - 60)
        await asyncio.sleep(calm_s)
        await _break(gateway, neurons, course)
        await _repair(gateway, neurons, course)
        await clients.until_each_has_asked(twice_after=course.whole_at)
        await clients.stop()
        await gateway_process.until(lambda: len(_lines(gateway)) >= len(course.asked))
        course.lines = _lines(gateway)
        for series, count in (await gateway.metrics()).items():
            if series.startswith("cortex_upstream_errors_total"):
                course.upstream_errors[series.split('reason="')[1].split('"')[0]] += int(count)
    return course


def _neuron(folder: Path, name: str) -> Any:
    model = write_model(folder / name, kv_blocks=8192, slower=SLOWER if name == SLOW else 1)
    entries = [{"id": MODEL, "source": str(model), "preload_on": [name]}]
    return running_neuron(entries, name=name, max_sequences=512, queue_limit=512)


async def _break(gateway: RunningGateway, neurons: dict[str, RunningNeuron], course: Course) -> None:
    course.broke_at = time.monotonic()
    neurons[KILLED].process.kill()
    neurons[HUNG].process.send_signal(signal.SIGSTOP)

    async def out(name: str) -> None:
        await gateway_process.until_async(lambda: _healthy(gateway, name, False))
        course.out_after_s[name] = time.monotonic() - course.broke_at

    await asyncio.gather(out(KILLED), out(HUNG))


async def _repair(gateway: RunningGateway, neurons: dict[str, RunningNeuron], course: Course) -> None:
    """Continue the one, start the other again; each is back when it has answered a request."""
    began, killed = time.monotonic(), neurons[KILLED]
    neurons[HUNG].process.send_signal(signal.SIGCONT)
    with (killed.folder / "log").open("ab") as log:
        command = [*SCRIPTED, *files(killed.folder)]
        killed.process = await asyncio.create_subprocess_exec(*command, stderr=log, stdout=log)
    before = len(gateway.log)

    async def back(name: str) -> None:
        def has_answered() -> bool:
            return any(line.get("neuron") == name and line.get("outcome") == "ok" for line in gateway.log[before:])

        await gateway_process.until(has_answered, _RECOVERY_S)
        course.back_after_s[name] = time.monotonic() - began

    await asyncio.gather(back(KILLED), back(HUNG))
    course.whole_at = time.monotonic()


async def _healthy(gateway: RunningGateway, name: str, wanted: bool) -> bool:
    seen = await gateway.get("/health")
    return next(bool(each["healthy"]) for each in seen["neurons"] if each["name"] == name) is wanted


def _lines(gateway: RunningGateway) -> dict[str, dict[str, Any]]:
    return {line["request_id"]: line for line in gateway.log if line["event"] == "request"}


class _Clients:
    """`streams` of them, half in either dialect, and a tenth as many who want their answers whole; each asks again when
    it is answered. `async with` starts them."""

    def __init__(self, gateway: RunningGateway, course: Course, streams: int) -> None:
        self._gateway, self._course = gateway, course
        self._kinds = [(True, number % 2 == 0) for number in range(streams)]
        self._kinds += [(False, number % 2 == 0) for number in range(streams // 10)]
        self._stopping = False

    async def __aenter__(self) -> _Clients:
        connector = aiohttp.TCPConnector(limit=0)
        self._http = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60))
        self._tasks = [asyncio.create_task(self._run(number, *kind)) for number, kind in enumerate(self._kinds)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.close()

    async def stop(self) -> None:
        """Ask no more; returns when all are answered."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def until_each_has_asked(self, twice_after: float) -> None:
        """Until as many requests as there are clients have begun and ended after that moment."""

        def answered() -> bool:
            return sum(1 for each in self._course.asked if each.began > twice_after and each.over) >= len(self._kinds)

        await gateway_process.until(answered, _RECOVERY_S)

    async def _run(self, number: int, stream: bool, anthropic: bool) -> None:
        serial = 0
        await asyncio.sleep(number * 0.005)  # or all would end together
        while not self._stopping:
            asked = Asked(f"drill-{number}-{serial}", stream, anthropic, time.monotonic())
            self._course.asked.append(asked)
            asked.ended = await self._ask(asked)
            asked.over = time.monotonic()
            serial += 1
            await asyncio.sleep(_PAUSE_S)

    async def _ask(self, asked: Asked) -> Ended:
        order = {"reply": REPLY, "step_s": 0.05, "tokens_per_step": _TOKENS_PER_STEP, "n": asked.request_id}
        body = chat_body(order, MODEL, max_tokens=len(REPLY) + 1, stream=asked.stream)
        url = self._gateway.url + (MESSAGES if asked.anthropic else CHAT)
        headers = {"x-request-id": asked.request_id}
        received, last = bytearray(), time.monotonic()
        try:
            async with self._http.post(url, json=body, headers=headers) as response:
                async for piece in response.content.iter_any():
                    now = time.monotonic()
                    if FIRST_WORD in received:
                        asked.longest_gap_s = max(asked.longest_gap_s, now - last)
                    received += piece
                    last = now
        except aiohttp.ClientError as failure:
            asked.said = repr(failure)
            return Ended.TOLD
        asked.said = received[-300:].decode(errors="replace")
        if response.status != 200:
            return Ended.TOLD
        return _judged(asked, received.decode())


def _judged(asked: Asked, text: str) -> Ended:
    if not asked.stream:
        return Ended.COMPLETE if _document_text(asked, json.loads(text)) == REPLY else Ended.CUT
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    terminator = "event: message_stop\n" if asked.anthropic else "data: [DONE]\n"
    bodies = [json.loads(event) for event in events if event != "[DONE]"]
    if any("error" in body for body in bodies):
        return Ended.CUT if terminator in text else Ended.TOLD
    whole = terminator in text and "".join(map(_delta, bodies)) == REPLY
    return Ended.COMPLETE if whole else Ended.CUT


def _delta(body: dict[str, Any]) -> str:
    if body.get("type") == "content_block_delta":
        return str(body["delta"].get("text", ""))
    with suppress(KeyError, IndexError):
        return str(body["choices"][0]["delta"].get("content") or "")
    return ""


def _document_text(asked: Asked, body: dict[str, Any]) -> str:
    return str(body["content"][0]["text"] if asked.anthropic else body["choices"][0]["message"]["content"])
