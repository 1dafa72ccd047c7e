"""Clients that stream while something is done to the fleet: none of their answers may fail or be cut.

Run inside the lab's network as `load.py GATEWAY CLIENTS STOP_FILE`; ends once the file is there, and prints one JSON
document. A request counts as answered where its stream has a finish reason and ends with [DONE]; none is tried again.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

HEADERS = {"authorization": "Bearer the-key-of-a-client-of-the-lab"}
TOKENS = 192  # two seconds and more of a small model on a part of a core
PAUSE_S = 6.0  # between two requests of a client: the machine has hosts to boot and change beside these
BODY = {
    "model": "smollm2",
    "max_tokens": TOKENS,
    "ignore_eos": True,
    "stream": True,
    "messages": [{"role": "user", "content": "Tell me a long story about a lighthouse and its keeper."}],
}


@dataclass
class Seen:
    """What happened to the requests so far."""

    answered: int = 0
    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


async def main(gateway: str, clients: int, stop: Path) -> int:
    """Print what was seen; the exit code is 1 where a request failed."""
    seen = Seen()
    # Half of the clients keep their connection, the others come anew each time.
    await asyncio.gather(*(_client(gateway, number % 2 == 0, stop, seen) for number in range(clients)))
    seconds = sorted(seen.seconds) or [0.0]
    summary = {
        "answered": seen.answered,
        "failed": len(seen.failed),
        "failures": seen.failed[:20],
        "shortest_s": round(seconds[0], 2),
        "median_s": round(statistics.median(seconds), 2),
        "longest_s": round(seconds[-1], 2),
    }
    print(json.dumps(summary))
    return int(bool(seen.failed) or not seen.answered)


async def _client(gateway: str, keeps: bool, stop: Path, seen: Seen) -> None:
    connector = aiohttp.TCPConnector(force_close=not keeps)
    async with aiohttp.ClientSession(gateway, connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as session:
        while not stop.exists():
            began = time.monotonic()
            try:
                fault = await _stream(session)
            except (aiohttp.ClientError, TimeoutError, OSError) as failure:
                fault = f"{type(failure).__name__}: {failure}"
            if fault:
                seen.failed.append(f"{time.strftime('%H:%M:%S')} after {time.monotonic() - began:.1f} s: {fault}")
            else:
                seen.answered += 1
                seen.seconds.append(time.monotonic() - began)
            await asyncio.sleep(PAUSE_S)


async def _stream(session: aiohttp.ClientSession) -> str | None:
    """What is wrong with one answer; None for nothing."""
    async with session.post("/v1/chat/completions", json=BODY, headers=HEADERS) as answer:
        if answer.status != 200:
            return f"{answer.status} {(await answer.text())[:200]}"
        lines = [line.decode().strip() async for line in answer.content]
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        return f"cut after {len(events)} events: {events[-1:]}"
    finishes = [choice["finish_reason"] for event in events[:-1] for choice in json.loads(event).get("choices", [])]
    return None if any(finishes) else "no finish reason"


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))
