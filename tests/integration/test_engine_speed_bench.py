"""`make bench-engine` in short: it must run, and ask what it says it asks. Its times are not judged here."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_PROMISED = {
    "decode_tok_s", "prefill_tok_s", "c8_tok_s", "c32_tok_s", "shared_prefix_tok_s", "unshared_prefix_tok_s",
    "shared_prefix_c32_tok_s", "ttft_s", "cold_start_s", "load_s", "rss_mb", "limit_tok_s", "of_limit",
}  # fmt: skip


@pytest.mark.timeout(600)  # three starts and several loads, on a machine that may be busy
async def test_the_bench_measures_our_engine_with_prompts_and_answers_of_exact_lengths(tmp_path: Path) -> None:
    """Every figure that is promised is there and positive, and no answer had other lengths than were asked for."""
    found = tmp_path / "figures.json"
    bench = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.engine_speed", "--quick", "--markdown", "--json", str(found), cwd=_ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await bench.communicate()
    assert bench.returncode == 0, output.decode()
    cortex = json.loads(found.read_text())["cortex"]
    assert [key for key in _PROMISED if not cortex.get(key, 0) > 0] == []
    assert cortex["notes"] == []
    assert "| one stream, 128 tokens in, 128 out: decode |" in output.decode()
