"""What a vLLM server tells of itself at /metrics, as far as the neuron passes it on. Pure. Called by: server.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_BLOCKS = re.compile(r'num_gpu_blocks="(\d+)"')


@dataclass(frozen=True, slots=True)
class Told:
    """Sums over the server's engines. `kv_used` is a share, 0 to 1. `steps` is None where it does not say."""

    running: int = 0
    waiting: int = 0
    kv_blocks: int = 0
    kv_used: float = 0.0
    steps: int | None = None
    drafted: int = 0  # tokens
    accepted: int = 0  # of these


def read(text: str) -> Told:
    """The figures of a page in Prometheus' text format; what is not there is 0."""
    steps = [value for _, value in _series(text, "iteration_tokens_total_count")]
    used = [value for _, value in _series(text, "kv_cache_usage_perc")]
    blocks = [found for labels, _ in _series(text, "cache_config_info") if (found := _BLOCKS.search(labels))]
    return Told(
        running=int(sum(value for _, value in _series(text, "num_requests_running"))),
        waiting=int(sum(value for _, value in _series(text, "num_requests_waiting"))),
        kv_blocks=sum(int(found[1]) for found in blocks),
        kv_used=sum(used) / len(used) if used else 0.0,
        steps=int(sum(steps)) if steps else None,
        drafted=int(sum(value for _, value in _series(text, "spec_decode_num_draft_tokens_total"))),
        accepted=int(sum(value for _, value in _series(text, "spec_decode_num_accepted_tokens_total"))),
    )


def _series(text: str, name: str) -> Iterator[tuple[str, float]]:
    """Labels and value of each series of that name."""
    for found in re.finditer(rf"^vllm:{name}(\{{.*\}})? (\S+)$", text, re.MULTILINE):
        try:
            yield found[1] or "", float(found[2])
        except ValueError:
            continue
