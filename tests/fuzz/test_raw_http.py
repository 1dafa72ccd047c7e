"""Requests that are no HTTP, or nearly, at a real gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from gateway_process import model_entry, running
from raw_http import MODEL, attack, judge, speak
from scripted_neuron import scripted

CONVERSATIONS = 400
JSON = b'{"model":"model-a","messages":[]}'
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"


async def test_whatever_is_sent_is_answered_well_or_not_at_all_and_the_gateway_lives_on(tmp_path: Path) -> None:
    """An envelope, or a closed connection (W7); never a 500, half an answer, or a traceback in the log."""
    async with scripted("one", MODEL) as neuron, running(tmp_path, [neuron], [model_entry(MODEL)]) as gateway:
        assert await attack(gateway, iter(range(CONVERSATIONS))) == CONVERSATIONS


@pytest.mark.parametrize(
    ("pieces", "statuses"),
    [
        ([POST + b"content-length: %d\r\n\r\n" % len(JSON) + JSON] * 3, [200, 200, 200]),
        ([POST + b"transfer-encoding: chunked\r\n\r\n21\r\n" + JSON + b"\r\n0\r\n\r\n"], [200]),
        ([POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n"], [400]),
        ([POST + b"content-length: 99999999999\r\n\r\n"], [413]),
        ([POST + b"x: " + b"y" * 20000 + b"\r\n\r\n"], [431]),
        ([b"no HTTP at all\r\n\r\n"], [400]),
        ([POST[:20]], []),
    ],
    ids=["pipelined", "chunked", "bad chunk size", "oversized", "large header", "no HTTP", "slow header"],
)
async def test_each_kind_of_bad_http_has_its_answer(tmp_path: Path, pieces: list[bytes], statuses: list[int]) -> None:
    """Several requests at once are answered in turn; a header that does not end is waited for."""
    async with scripted("one", MODEL) as neuron, running(tmp_path, [neuron], [model_entry(MODEL)]) as gateway:
        async with asyncio.timeout(20):
            said, _ = await speak(int(gateway.url.rpartition(":")[2]), pieces)
        assert judge(said) == statuses
