"""One request's stages, its seat, and who may interrupt it."""

from __future__ import annotations

import asyncio

import pytest

from cortex_contracts.wire.errors import ShuttingDown
from cortex_dialects.dialect import Dialect
from cortex_gateway.admission.gate import Admission
from cortex_gateway.exchange import Exchange, IllegalMove, Outcome, Stage
from cortex_gateway.fleet.outstanding import Outstanding
from cortex_gateway.processes.workers import Workers


def exchange(outstanding: Outstanding) -> Exchange:
    return Exchange("r", Dialect.OPENAI, "/v1/chat/completions", outstanding)


def test_a_stage_that_does_not_follow_is_an_error_with_both() -> None:
    one = exchange(Outstanding())
    with pytest.raises(IllegalMove, match="waiting -> answering"):
        one.move(Stage.ANSWERING)


def test_the_seat_is_given_back_once_however_it_ends() -> None:
    """Another neuron takes the first one's place, and nothing stays behind (L9)."""
    outstanding = Outstanding()
    one = exchange(outstanding)
    one.model = "m"
    one.hold("aa")
    one.hold("bb")
    assert outstanding == {("bb", "m"): 1}
    one.close()
    one.release()
    assert outstanding == {}


async def test_an_interruption_ends_the_wait_with_its_reason() -> None:
    """And only that wait; a cancellation from outside stays a cancellation."""
    one = exchange(Outstanding())

    async def wait() -> None:
        with one.interruptible():
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    one.interrupt(ShuttingDown("bye"))
    with pytest.raises(ShuttingDown):
        await waiting
    one.interrupt(ShuttingDown("nobody waits"))
    again = asyncio.create_task(wait())
    await asyncio.sleep(0)
    again.cancel()
    with pytest.raises(asyncio.CancelledError):
        await again


async def test_who_is_cancelled_and_interrupted_at_once_is_cancelled() -> None:
    """A client that leaves is not told why somebody else would have ended its wait."""
    one = exchange(Outstanding())

    async def wait() -> None:
        with one.interruptible():
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    one.interrupt(ShuttingDown("bye"))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert waiting.cancelled()


async def test_a_timeout_inside_is_not_taken_for_an_interruption() -> None:
    """Its own limits stay its own."""
    with pytest.raises(TimeoutError), exchange(Outstanding()).interruptible():
        raise TimeoutError


async def test_closing_refuses_the_new_and_returns_when_the_last_has_left() -> None:
    """Not later than the last, not earlier (L8)."""
    admission, inside = Admission(Workers().seat(0)), exchange(Outstanding())
    admission.enter(inside)
    inside.move(Stage.ASKED)
    closing = asyncio.create_task(admission.close(30))
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDown):
        admission.enter(exchange(Outstanding()))
    assert not closing.done()
    admission.leave(inside)
    async with asyncio.timeout(1):
        await closing


def test_the_first_failure_names_the_outcome() -> None:
    """What happens while an error is told does not change what it was."""
    one = exchange(Outstanding())
    one.move(Stage.ASKED)
    one.move(Stage.ANSWERING)
    one.failed(502, "upstream_broken")
    one.client_gone()
    assert (one.outcome, one.code) == (Outcome.BROKEN, "upstream_broken")
