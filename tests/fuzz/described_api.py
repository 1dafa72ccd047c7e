"""Schemathesis over what both services say of themselves: no 5xx, and no answer or event of a shape that is not said.

Owns: a fleet of one with a scripted engine, whose answers hold thoughts, text and a call; and how schemathesis is run.
`python tests/fuzz/described_api.py --examples 2000` makes so many requests at least of each service's document. Called
by: test_described_api.py (few), `make fuzz-api`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

HERE = Path(__file__).resolve().parent
ADMIN_KEY = "admin-of-the-examples"
MODEL = "echo"
SAID = 'Grüße. <tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
# That of a model that calls tools, without an object of JSON: one in the prompt is an order to the engine.
TEMPLATE = (
    "{% for message in messages %}{{ bos_token }}{{ message.role }}\n{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% for tool in tools or [] %}<tool_call>{{ tool.function.name }}</tool_call>{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }}assistant\n{% endif %}"
)
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
# What these change would refuse the others' requests; they come last, by themselves.
CONTROLS = "^/(drain|undrain|models/(load|unload|verify)|fleet/(models|neurons|gateway)/.*)$"
ALL_ELSE = f"^(?!{CONTROLS[1:]})"
SERVICES = ("gateway", "neuron")
_LIMIT_S = 900.0


@dataclass(frozen=True)
class Fleet:
    """Where both services are."""

    gateway: str
    neuron: str


@dataclass(frozen=True)
class Report:
    """What schemathesis said."""

    cases: int
    is_clean: bool
    text: str


@asynccontextmanager
async def fleet() -> AsyncIterator[Fleet]:
    """A gateway with an admin key, and a neuron whose model answers at once."""
    from gateway_process import model_entry, running
    from neuron_process import running_neuron
    from scripted_model import write_model

    with tempfile.TemporaryDirectory(prefix="described-") as name:
        folder = Path(name)
        said = {"reply": f"<think>hm</think>{SAID}", "tokens_per_step": 8}
        source = write_model(folder / "model", template=TEMPLATE, unordered=said)
        digest = hashlib.sha256(ADMIN_KEY.encode()).hexdigest()
        (folder / "keys.toml").write_text(f'admin_sha256 = "{digest}"\n')
        async with running_neuron([{"id": MODEL, "source": str(source), "preload_on": ["here"]}]) as neuron:
            await neuron.until_status("loaded", MODEL)
            async with running(folder, [neuron], [model_entry(MODEL)]) as gateway:  # type: ignore[list-item]
                yield Fleet(gateway.url, neuron.url)


async def examine(url: str, of_each: int, *, paths: str, mode: str = "all") -> Report:
    """Up to so many generated requests of each operation, besides those that schemathesis thinks out by itself."""
    with tempfile.TemporaryDirectory(prefix="described-") as folder:
        description = Path(folder, "openapi.json")
        description.write_text(json.dumps(closed(await asyncio.to_thread(_fetched, f"{url}/openapi.json"))))
        command = [
            str(Path(sys.executable).parent / "schemathesis"), "run", str(description), f"--url={url}",
            f"--checks={','.join(CHECKS)}", f"--max-examples={of_each}", f"--mode={mode}",
            "--phases=coverage,fuzzing", "--seed=7",
            "--no-color", "--request-timeout=30", "--continue-on-failure",
            f"--header=Authorization: Bearer {ADMIN_KEY}",
            f"--include-path-regex={paths}",
        ]  # fmt: skip
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "SCHEMATHESIS_HOOKS": "described_api_hooks",
            "CORTEX_FUZZ_MODEL": MODEL,
        }
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=folder, env=environment
        )
        said = (await asyncio.wait_for(process.communicate(), _LIMIT_S))[0].decode()
    cases = re.search(r"^ *(\d+) generated", said, re.MULTILINE)
    return Report(int(cases[1]) if cases else 0, process.returncode == 0, said)


def _fetched(url: str) -> Any:
    with urlopen(url) as answer:
        return json.loads(answer.read())


def closed(described: Any) -> Any:
    """The same, where objects of answers have no fields but those that are told, unless they say that they may."""
    schemas = described["components"]["schemas"]
    answers = [operation["responses"] for path in described["paths"].values() for operation in path.values()]
    reached, left = set[str](), _named(answers)
    while left - reached:
        reached |= left
        left = _named([schemas[name] for name in reached])
    for name in reached:
        if "properties" in schemas[name]:
            schemas[name].setdefault("additionalProperties", False)
    return described


def _named(part: Any) -> set[str]:
    return set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(part)))


async def _examine_all(service: str, examples: int) -> bool:
    """Of a fleet of its own: who has been drained or unloaded refuses what comes after."""
    async with fleet() as started:
        url, began = getattr(started, service), time.monotonic()
        paths = (await asyncio.to_thread(_fetched, f"{url}/openapi.json"))["paths"]
        of_each = -(-examples // sum("requestBody" in each for path in paths.values() for each in path.values()))
        reports = [await examine(url, of_each, paths=which) for which in (ALL_ELSE, CONTROLS)]
    cases = sum(report.cases for report in reports)
    print("\n".join(report.text for report in reports if not report.is_clean))
    print(f"{service}: {cases} requests in {time.monotonic() - began:.0f} s", flush=True)
    return cases >= examples and all(report.is_clean for report in reports)


def main() -> int:
    """1 where something was found, or too few requests were made."""
    sys.path[:0] = [str(HERE.parent / "integration"), str(HERE.parent / "unit/neuron")]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=2000, help="of each document; default: %(default)s")
    parser.add_argument("services", nargs="*", default=SERVICES, help="default: both")
    arguments = parser.parse_args()
    clean = [asyncio.run(_examine_all(service, arguments.examples)) for service in arguments.services]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
