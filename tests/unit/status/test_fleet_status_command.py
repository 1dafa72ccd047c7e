"""The command as operators run it: a process, an inventory on disk, hosts on sockets."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
import textwrap
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cortex_status.fleet_status.command import main
from cortex_status.fleet_status.document import Document, Verdict

Answers = dict[str, Any]
Serve = Callable[[Answers], Awaitable[int]]

DEADLINE_S = 60.0
STATUS = "import sys; from cortex_status.fleet_status.command import main; sys.exit(main(sys.argv[1:]))"
CATALOGUE = """
  - {id: qwen3-8b, source: Qwen/Qwen3-8B, vram_mb: 20000, tensor_parallel: 2, preload_on: [rack1]}
  - {id: gemma, source: google/gemma, vram_mb: 9000}
  - {id: llama, source: meta/llama, vram_mb: 9000}
"""


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


async def start(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", STATUS, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, **environment},
    )  # fmt: skip


async def status(*arguments: str, **environment: str) -> Finished:
    process = await start(*arguments, **environment)
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


def write_inventory(folder: Path, gateway_port: int, neuron_port: int) -> Path:
    """One gateway and one neuron of this machine."""
    (folder / "group_vars").mkdir(exist_ok=True)
    (folder / "hosts.yml").write_text(
        textwrap.dedent(f"""\
        all:
          vars: {{ansible_connection: local, ansible_host: 127.0.0.1}}
          children:
            gateway: {{hosts: {{gw: {{gateway_listen: "0.0.0.0:{gateway_port}"}}}}}}
            neurons: {{hosts: {{rack1: {{neuron_port: {neuron_port}}}}}}}
        """)
    )
    (folder / "group_vars" / "all.yml").write_text(f"cortex_models: {CATALOGUE}")
    return folder


@pytest.fixture
async def inventory(tmp_path: Path, serve: Serve, neuron_answers: Answers, gateway_answers: Answers) -> Path:
    """The inventory of a fleet that runs and is as declared."""
    neuron_port = await serve(neuron_answers)
    gateway_answers["/health"]["neurons"][0]["url"] = f"http://127.0.0.1:{neuron_port}"
    return write_inventory(tmp_path, await serve(gateway_answers), neuron_port)


async def test_a_fleet_that_is_well_exits_0(inventory: Path) -> None:
    """Success is said, and nothing is written to stderr."""
    done = await status("-i", str(inventory))
    assert (done.code, done.err) == (0, "")
    assert "All is well" in done.out


async def test_drift_exits_1_and_is_named(inventory: Path, neuron_answers: Answers) -> None:
    """A script can act on the code, a person on the line."""
    neuron_answers["/models"][0]["harness"] = "vllm"
    done = await status("-i", str(inventory))
    assert done.code == 1
    assert "harness_differs  rack1: qwen3-8b runs in harness vllm" in done.out


async def test_a_dead_neuron_exits_1_and_the_rest_is_shown(
    tmp_path: Path, serve: Serve, gateway_answers: Answers
) -> None:
    """A dead host is a row, not a crash."""
    write_inventory(tmp_path, await serve(gateway_answers), 1)
    done = await status("-i", str(tmp_path))
    assert done.code == 1
    assert "refused: Connection refused" in " ".join(done.out.split())  # lines break where the terminal ends


async def test_a_fleet_that_is_down_exits_3(tmp_path: Path) -> None:
    """Nothing at all answers: probably the network here, or the wrong inventory."""
    done = await status("-i", str(write_inventory(tmp_path, 1, 2)))
    assert done.code == 3
    assert "Nothing answers." in done.out


async def test_an_inventory_with_problems_exits_2_with_all_of_them(inventory: Path) -> None:
    """Every problem at once, on stderr, and nobody is asked."""
    variables = inventory / "group_vars" / "all.yml"
    variables.write_text(variables.read_text() + "\nneuron_prot: 1\ngateway_body_limit_mb: -1\n")
    done = await status("-i", str(inventory))
    assert (done.code, done.out) == (2, "")
    assert "neuron_prot" in done.err
    assert "gateway_body_limit_mb" in done.err


async def test_an_inventory_that_is_missing_exits_2(tmp_path: Path) -> None:
    """A path that does not exist is an error, not an empty fleet."""
    done = await status("-i", str(tmp_path / "nothere"))
    assert done.code == 2
    assert "nothere" in done.err
    assert "Traceback" not in done.err


async def test_json_is_one_document_that_reads_back(inventory: Path, neuron_answers: Answers) -> None:
    """What is printed is the documented shape, and nothing else is on stdout."""
    neuron_answers["/health"]["state"] = "draining"
    done = await status("-i", str(inventory), "--json")
    seen = Document.model_validate_json(done.out)
    assert (done.code, seen.verdict) == (1, Verdict.UNWELL)
    assert [finding.kind for finding in seen.findings] == ["drained"]
    assert json.loads(done.out)["observed"]["neurons"][0]["health"]["models"][0]["in_flight"] == 5


async def test_json_of_an_unusable_inventory_is_a_document_too(tmp_path: Path) -> None:
    """A program that reads the document need not parse prose."""
    done = await status("-i", str(tmp_path / "nothere"), "--json")
    seen = Document.model_validate_json(done.out)
    assert (done.code, seen.verdict) == (2, Verdict.INVENTORY_UNUSABLE)
    assert "nothere" in seen.inventory_problems[0]


async def test_a_vaulted_inventory_is_read_with_its_password(inventory: Path, tmp_path_factory: Any) -> None:
    """With the password file it is read; without it the command says that it is locked."""
    password = tmp_path_factory.mktemp("vault") / "password"
    password.write_text("correct horse\n")
    variables = inventory / "group_vars" / "all.yml"
    vault = Path(sys.executable).parent / "ansible-vault"
    command = (str(vault), "encrypt", "--vault-password-file", str(password), str(variables))
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0
    assert variables.read_text().startswith("$ANSIBLE_VAULT")

    assert (await status("-i", str(inventory), "--vault-password-file", str(password))).code == 0
    locked = await status("-i", str(inventory))
    assert locked.code == 2
    assert "vault" in locked.err.lower()


async def test_a_dynamic_inventory_is_run(inventory: Path, tmp_path_factory: Any) -> None:
    """An executable that prints an inventory is as good as a file."""
    hosts = {
        "gateway": {"hosts": ["gw"], "vars": {"gateway_listen": f"0.0.0.0:{_port(inventory, 'gateway_listen')}"}},
        "neurons": {"hosts": ["rack1"], "vars": {"neuron_port": int(_port(inventory, "neuron_port"))}},
        "_meta": {"hostvars": {}},
    }
    common = {"ansible_host": "127.0.0.1", "cortex_models": [
        {"id": "qwen3-8b", "source": "x", "vram_mb": 1, "tensor_parallel": 2, "preload_on": ["rack1"]},
        {"id": "gemma", "source": "x", "vram_mb": 1}, {"id": "llama", "source": "x", "vram_mb": 1},
    ]}  # fmt: skip
    script = tmp_path_factory.mktemp("dynamic") / "inventory.py"
    content = {**hosts, "all": {"vars": common}}
    script.write_text(f"#!{sys.executable}\nimport json\nprint(json.dumps({content!r}))\n")
    script.chmod(0o755)
    done = await status("-i", str(script))
    assert done.code == 0, done.out + done.err


def _port(inventory: Path, variable: str) -> str:
    after = (inventory / "hosts.yml").read_text().split(variable)[1]
    return "".join(char for char in after.split("}")[0].rpartition(":")[2] if char.isdigit())


async def test_watching_into_a_pipe_gives_a_document_a_line_until_interrupted(
    inventory: Path, neuron_answers: Answers
) -> None:
    """Each interval asks anew; Ctrl-C ends it without a traceback."""
    process = await start("-i", str(inventory), "--json", "--watch", "0.05")
    assert process.stdout is not None
    first = Document.model_validate_json(await asyncio.wait_for(process.stdout.readline(), DEADLINE_S))
    neuron_answers["/health"]["state"] = "draining"
    async with asyncio.timeout(DEADLINE_S):
        while not (later := Document.model_validate_json(await process.stdout.readline())).findings:
            pass
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert (first.verdict, later.verdict) == (Verdict.WELL, Verdict.UNWELL)
    assert (process.returncode, err.decode()) == (130, "")


async def test_watching_on_a_terminal_redraws_and_gives_the_terminal_back(inventory: Path) -> None:
    """On a terminal the screen is redrawn in place, and after Ctrl-C the cursor is visible again."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STATUS, "-i", str(inventory), "--watch", "0.05",
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
    )  # fmt: skip
    os.close(theirs)
    shown = await _read_until(ours, lambda text: text.count("All is well") >= 3)
    process.send_signal(signal.SIGINT)
    shown += await _read_until(ours, lambda text: False)
    os.close(ours)
    assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 130
    assert "\x1b[1A" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "Traceback" not in shown


async def _read_until(terminal: int, enough: Callable[[str], bool]) -> str:
    """What the terminal shows until it is enough, or until the other side is closed."""
    text = ""
    async with asyncio.timeout(DEADLINE_S):
        while not enough(text):
            try:
                text += (await asyncio.to_thread(os.read, terminal, 65536)).decode(errors="replace")
            except OSError:  # how Linux says that the program is gone
                break
    return text


@pytest.mark.parametrize("words", [["--watch", "0"], ["--watch", "soon"], ["--timeout", "-1"], ["--timeout", "inf"]])
def test_an_interval_that_is_none_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The command line is checked before anything is read."""
    with pytest.raises(SystemExit) as stopped:
        main(["-i", "x", *words])
    assert stopped.value.code == 2
    assert repr(words[1]) in capsys.readouterr().err


def test_help_tells_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts are written from --help."""
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for code in (0, 1, 2, 3, 130):
        assert f"\n  {code} " in shown
