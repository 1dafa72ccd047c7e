"""What becomes of an answer whose client leaves while it is waited for."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from cortex_gateway.forwarding.client_stream import ClientStream


async def left_as_it_came(answer: str) -> list[str]:
    """What was given up when the client left in the very moment in which the work was done."""
    arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    given_up: list[str] = []

    async def work() -> str:
        await arrived
        return answer

    nobody = cast("Any", None)
    waiting = asyncio.create_task(ClientStream(nobody, nobody, nobody).while_waiting(work(), given_up.append))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    arrived.set_result(None)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    return given_up


async def test_an_answer_that_comes_in_the_moment_its_client_leaves_is_given_up() -> None:
    """Or its neuron would go on for nobody, with a seat that is never free again (cases S8, L9)."""
    assert await left_as_it_came("answer") == ["answer"]
