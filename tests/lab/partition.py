"""The drill of a pulled cable: asks a gateway all the while, pulls a neuron's cable for half a minute, puts it back.

Run inside the lab's network as `partition.py GATEWAY NEURON`. Exits with 1 where a request fails once the gateway could
know, or where the neuron does not come back by itself.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import aiohttp

LAB = Path(__file__).with_name("lab")
HEADERS = {"authorization": "Bearer the-key-of-a-client-of-the-lab"}
ADMIN = {"authorization": "Bearer the-admin-key-of-the-lab"}
BODY = {"model": "smollm2", "max_tokens": 4, "messages": [{"role": "user", "content": "Say hello."}]}
CUT_S = 30.0
PAUSE_S = 0.1  # between two requests: other hosts are changed meanwhile
BACK_S = 30.0


async def main(gateway: str, neuron: str) -> int:
    """Print what was seen; the exit code."""
    async with aiohttp.ClientSession(gateway, timeout=aiohttp.ClientTimeout(total=60)) as session:
        await _lab("cut", neuron)
        began = time.monotonic()
        outcomes: list[tuple[float, int, float]] = []
        while (since := time.monotonic() - began) < CUT_S:
            status = await _ask(session)
            outcomes.append((since, status, time.monotonic() - began - since))
            await asyncio.sleep(PAUSE_S)
        unhealthy = not await _healthy(session, neuron)
        await _lab("mend", neuron)
        back_s = await _back_after_s(session, neuron)
    failed = [f"{since:.1f} s: {status}" for since, status, _ in outcomes if status != 200]
    slowest_s = max(took for _, _, took in outcomes)
    print(f"{len(outcomes)} requests in {CUT_S:.0f} s: {len(failed)} failed {failed}, slowest {slowest_s:.1f} s")
    print(f"{neuron} was {'known to be away' if unhealthy else 'thought to be there'}, and back {back_s:.1f} s later")
    return int(bool(failed) or not unhealthy or back_s >= BACK_S)


async def _back_after_s(session: aiohttp.ClientSession, neuron: str) -> float:
    began = time.monotonic()
    while time.monotonic() - began < BACK_S:
        if await _healthy(session, neuron):
            break
        await asyncio.sleep(0.1)
    return time.monotonic() - began


async def _ask(session: aiohttp.ClientSession) -> int:
    try:
        async with session.post("/v1/chat/completions", json=BODY, headers=HEADERS) as answer:
            await answer.read()
            return answer.status
    except (aiohttp.ClientError, TimeoutError):
        return 0


async def _healthy(session: aiohttp.ClientSession, neuron: str) -> bool:
    async with session.get("/health", headers=ADMIN) as answer:
        return any(seen["name"] == neuron and seen["healthy"] for seen in (await answer.json())["neurons"])


async def _lab(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(LAB, *arguments)
    if await process.wait() != 0:
        raise RuntimeError(f"lab {' '.join(arguments)} failed")


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
