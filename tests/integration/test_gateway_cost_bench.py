"""`make bench-gateway` in short: it must run, and what it finds must be right. Its times are not judged here."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PROMISED = {
    "cpu_s_per_1k_requests", "cpu_s_per_1k_requests_64k", "cpu_s_per_100k_chunks_paced", "cpu_s_per_100k_chunks_flat",
    "added_p99_ms", "added_ttft_ms", "rss_mb", "idle_rss_mb", "rss_mb_after_soak", "translated_to_passed",
}  # fmt: skip


async def test_the_bench_measures_a_gateway_that_answers_rightly(tmp_path: Path) -> None:
    """Every figure that is promised is there, and every answer that was checked before timing was right."""
    found = tmp_path / "figures.json"
    bench = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.gateway_cost", "--quick", "--json", str(found), cwd=_ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await bench.communicate()
    assert bench.returncode == 0, output.decode()
    cortex = json.loads(found.read_text())["cortex"]
    assert cortex.keys() >= _PROMISED
    assert all(isinstance(cortex[key], float) for key in _PROMISED)
    assert cortex["checks"]
    assert [name for name, kept in cortex["checks"].items() if not kept] == []
    assert [line for line in output.decode().splitlines() if "faults" in line and " faults 0 " not in line] == []
