"""What `cortex up` prints when everything is ready: commands to copy."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cortex_contracts.inventory.fleet import Fleet
from cortex_status.up.services import NeuronService, Service

MESSAGES = [{"role": "user", "content": "Say hello."}]


def text(fleet: Fleet, services: Sequence[Service], sources: Sequence[str], took_s: float) -> str:
    """The lines; curl lines only where a gateway and a model are there to answer them."""
    gateway = next((service for service in services if not isinstance(service, NeuronService)), None)
    writers = (model for model in fleet.models if model.task in ("auto", "generate"))
    model = next((model.id for model in writers if model.preload_on), None)
    lines = [f"ready in {took_s:.1f} s; Ctrl-C stops it"]
    if gateway is not None and model is not None:
        at = gateway.url.removeprefix("http://")
        lines += _curl(f"curl -N {at}/v1/chat/completions", {"model": model, "stream": True, "messages": MESSAGES})
        lines += _curl(f"curl {at}/v1/messages", {"model": model, "max_tokens": 64, "messages": MESSAGES})
    status = os.path.relpath(Path(sys.executable).parent / "cortex-status")
    lines += ["", f"  {status} {' '.join(f'-i {source}' for source in sources)}"]
    lines += ["", f"logs: {' '.join(os.path.relpath(service.log) for service in services)}"]
    return "\n".join(lines)


def _curl(command: str, body: dict[str, object]) -> list[str]:
    compact = json.dumps(body, separators=(",", ":"))
    return ["", f"  {command} -H 'content-type: application/json' \\", f"    -d '{compact}'"]
