"""In the place of cortex-neuron and cortex-gateway where a test is about `cortex up`: answers /health and /models.

Run as `<python> stand_in_service.py <program> …`. What it does is set by STAND_IN_<PROGRAM> as words: `die` (ends after
a line of log), `stubborn` (ignores SIGTERM), `engine` (has a child in a session of its own, as a rank process has),
`failing` (could not load its model), `slow` (never leaves its activation), `late` (has heard from its neuron only
when it is asked for the fourth time, and logs that).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PROGRAM = sys.argv[1]
WORDS = os.environ.get(f"STAND_IN_{PROGRAM.upper()}", "").split()
ASKED: list[str] = []


def gateway_health() -> dict[str, object]:
    """As the gateway's."""
    healthy = "late" not in WORDS or ASKED.count("/health") > 3
    if "late" in WORDS and healthy:
        print("here is up", flush=True)
    seen = {"name": "here", "url": "", "healthy": healthy, "state": None, "strikes": 0, "models": [], "version": None}
    return {"status": "ok", "uptime_secs": 1.0, "version": "0", "in_flight": 0, "neurons": [seen]}


def neuron_health() -> dict[str, object]:
    """As the neuron's; ready once someone has seen its model loading."""
    activating = "slow" in WORDS or "/models" not in ASKED
    failed = ["demo"] if "failing" in WORDS and not activating else []
    return {
        "uptime_secs": 1.0,
        "state": "activating" if activating else "ready",
        "activation": {"wanted": ["demo"], "failed": failed},
        "devices": [],
        "models": [],
        "version": "0",
    }


def models() -> list[dict[str, object]]:
    """As the neuron's, while it loads."""
    row: dict[str, object] = {"id": "demo", "harness": "torch", "status": "loading"}
    if "failing" in WORDS:
        return [row | {"status": "failed", "failure": {"kind": "load_failed", "message": "no such file: x.gguf"}}]
    return [row | {"progress": {"phase": "weights", "fraction": 0.42}}]


class Handler(BaseHTTPRequestHandler):
    """GET only."""

    def do_GET(self) -> None:
        ASKED.append(self.path)
        health = neuron_health if PROGRAM == "neuron" else gateway_health
        body = json.dumps(models() if self.path == "/models" else health()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The log is for what the tests look for."""


def address(file: str) -> tuple[str, int]:
    """Where the rendered file says that it listens."""
    content = tomllib.loads(Path(file).read_text())
    if PROGRAM == "neuron":
        return content["neuron"]["bind"], content["neuron"]["port"]
    host, _, port = content["gateway"]["listen"].rpartition(":")
    return host, int(port)


def main() -> int:
    """Serve until SIGTERM."""
    if "--config" not in sys.argv:
        return 0  # --check-config, --check-models
    print(f"{PROGRAM} says hello", flush=True)
    if "die" in WORDS:
        return 3
    if "engine" in WORDS:
        subprocess.Popen(["sleep", "600"], start_new_session=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in WORDS else lambda *_: os._exit(0))
    ThreadingHTTPServer(address(sys.argv[sys.argv.index("--config") + 1]), Handler).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
