"""Through the whole path, greedy answers are those of the fp32 reference (tests/oracle)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fleet_of_one import FleetOfOne

ORACLE = json.loads((Path(__file__).parents[1] / "oracle/smollm2_135m.json").read_text())
CLOSE_CALL = 0.05  # where the reference's best two tokens are nearer than this, either is right


def first_wrong_token(reference: dict[str, Any], answer: list[int]) -> int | None:
    """Index of the first token that differs where the reference was decided; None if there is none."""
    for index, expected in enumerate(reference["token_ids"]):
        if index >= len(answer):
            return None if expected in ORACLE["stop_token_ids"] else index
        if answer[index] != expected:
            return None if reference["margins"][index] < CLOSE_CALL else index
    return None


async def _answer(session: aiohttp.ClientSession, url: str, reference: dict[str, Any]) -> list[int]:
    body = {
        "model": "smollm2",
        "prompt": reference["prompt_ids"],
        "max_tokens": ORACLE["max_tokens"],
        "temperature": 0,
        "return_token_ids": True,
    }
    async with session.post(url + "/v1/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        ids: list[int] = (await answer.json())["choices"][0]["token_ids"]
        return ids


@pytest.mark.parametrize("at_once", [1, 32])
async def test_greedy_token_ids_agree(fleet: FleetOfOne, at_once: int) -> None:
    """Alone and 32 at once: the reference's token ids, but where its top two were a close call."""
    prompts = ORACLE["prompts"] if at_once == 1 else (ORACLE["prompts"] * 2)[:at_once]
    seats = asyncio.Semaphore(at_once)

    async def one(reference: dict[str, Any]) -> None:
        async with seats:
            answer = await _answer(session, fleet.url, reference)
        assert first_wrong_token(reference, answer) is None, (reference["name"], reference["token_ids"], answer)

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=170)) as session, asyncio.TaskGroup() as group:
        for reference in prompts:
            group.create_task(one(reference))
