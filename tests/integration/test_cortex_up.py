"""`cortex up` as a program, with the real playbook, and stand-ins for the services."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from free_ports import free_port
from site_playbook import BIN, ROOT

STAND_IN = Path(__file__).with_name("stand_in_service.py")
PATIENCE_S = 60.0


class Up:
    """A running `cortex up` over an inventory of its own, below `folder`.

    The real site.yml takes seconds; a test that is not about it has one that does nothing, and the files are there.
    """

    def __init__(self, folder: Path, *, real_site: bool = False, **environment: str) -> None:
        self.folder = folder
        self._environment = environment
        self.ports = [free_port() for _ in range(3)]
        self._write_programs()
        self._write_inventory()
        if real_site:
            self._link_site()
        else:
            self._write_files()

    def start(self, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Begin; its output is a pipe unless a terminal is given."""
        self.process = subprocess.Popen(
            [BIN / "cortex", "up", "-i", self.folder / "inventory"],
            env={**os.environ, **self._environment},
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return self.process

    def until(self, text: str) -> str:
        """Read the output up to a line with the text."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if text in line:
                return "".join(lines)
        pytest.fail(f"it ended without saying {text!r}:\n{''.join(lines)}")

    def end(self) -> tuple[int, str]:
        """Its exit code and the rest of its output."""
        output, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, output

    def left_behind(self) -> list[str]:
        """Command lines of processes of this test that still run."""
        return [line for line in _command_lines() if str(self.folder) in line or str(self.marker) in line]

    @property
    def marker(self) -> str:
        """What the environment of every process of this test holds."""
        return f"CORTEX_TEST={self.folder}"

    def _write_programs(self) -> None:
        programs = self.folder / "bin"
        programs.mkdir(parents=True)
        for name in ("neuron", "gateway"):
            program = programs / f"cortex-{name}"
            program.write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} {name} "$@"\n')
            program.chmod(0o755)

    def _link_site(self) -> None:
        for name in ("site.yml", "ansible.cfg", "ansible", "roles"):
            (self.folder / name).symlink_to(ROOT / name)

    def _write_files(self) -> None:
        plays = [{"name": name, "hosts": "all", "gather_facts": False} for name in ("Neurons", "Gateways")]
        (self.folder / "site.yml").write_text(json.dumps(plays))
        listen, _, port = self.ports
        for path, line in {
            "neuron/neuron.toml": f"neuron = {{bind = '127.0.0.1', port = {port}}}",
            "cortex/cortex.toml": f"gateway = {{listen = '127.0.0.1:{listen}'}}",
        }.items():
            file = self.folder / "run/etc" / path
            file.parent.mkdir(parents=True)
            file.write_text(line)

    def _write_inventory(self) -> None:
        (self.folder / "inventory/group_vars").mkdir(parents=True)
        (self.folder / "inventory/hosts.yml").write_text((ROOT / "inventory/local/hosts.yml").read_text())
        listen, metrics, port = self.ports
        (self.folder / "inventory/group_vars/all.yml").write_text(
            f"""\
cortex_prefix: {self.folder}/run
cortex_service_manager: none
cortex_bin_dir: {self.folder}/bin
gateway_listen: 127.0.0.1:{listen}
gateway_metrics_listen: 127.0.0.1:{metrics}
gateway_drain_timeout_s: 0.1
neuron_bind: 127.0.0.1
neuron_port: {port}
neuron_devices: cpu
cortex_models: [{{id: demo, source: /none, vram_mb: 1, preload_on: [here]}}]
"""
        )


def _command_lines() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            yield words.replace(b"\0", b" ").decode(errors="replace")


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Makes an Up; whatever the test does, nothing of it runs on."""
    made: list[Up] = []

    def make(*, real_site: bool = False, **environment: str) -> Up:
        made.append(Up(tmp_path / "up", real_site=real_site, CORTEX_TEST=str(tmp_path / "up"), **environment))
        return made[-1]

    yield make
    for each in made:
        if hasattr(each, "process") and each.process.poll() is None:
            each.process.terminate()
            each.process.communicate(timeout=PATIENCE_S)


@pytest.mark.parametrize(("number", "real_site"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_it_gets_ready_says_how_to_ask_and_stops_everything(
    up: Callable[..., Up], number: signal.Signals, real_site: bool
) -> None:
    """Each stage is a line, then the time it took, a curl line per dialect, the status command, the logs."""
    running = up(real_site=real_site, STAND_IN_NEURON="engine")
    running.start()
    said = running.until("logs: ")
    stages = [line for line in said.splitlines() if not line.startswith(" ")]
    assert stages[:5] == [
        "checking the inventory",
        "rendering the configuration",
        "waiting for cortex-neuron",
        "loading demo",
        "waiting for cortex-gateway",
    ]
    assert re.search(r"^ready in [0-9.]+ s; Ctrl-C stops it$", said, re.MULTILINE)
    at = f"localhost:{running.ports[0]}"
    assert f"curl -N {at}/v1/chat/completions" in said
    assert f"curl {at}/v1/messages" in said
    assert "cortex-status -i " in said
    assert (running.folder / "run/var/log/cortex-neuron.log").read_text() == "neuron says hello\n"
    running.process.send_signal(number)
    code, rest = running.end()
    assert code == 0
    assert rest.splitlines() == ["stopping cortex-gateway", "stopping cortex-neuron", "stopped"]
    assert running.left_behind() == []


def test_a_service_that_dies_ends_it_with_the_service_s_last_words(up: Callable[..., Up]) -> None:
    """The other services are stopped too, and the exit code is not zero."""
    running = up()
    running.start()
    running.until("logs: ")
    [pid] = [pid for pid in _pids() if f"{STAND_IN.name} gateway" in _command_line(pid, running.folder)]
    os.kill(pid, signal.SIGKILL)
    code, rest = running.end()
    assert code == 1
    assert "gateway says hello" in rest
    assert "cortex-gateway of host here ended by itself, signal SIGKILL; the end of " in rest
    assert running.left_behind() == []


def _pids() -> list[int]:
    return [int(process.name) for process in Path("/proc").glob("[0-9]*")]


def _command_line(pid: int, folder: Path) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        return words if str(folder) in words else ""
    return ""


def test_a_service_that_dies_at_its_start_is_not_waited_for(up: Callable[..., Up]) -> None:
    """No timeout has to pass before the reason is shown."""
    running = up(STAND_IN_NEURON="die")
    running.start()
    code, said = running.end()
    assert code == 1
    assert "neuron says hello\n\ncortex-neuron of host here ended by itself, exit code 3" in said
    assert "ready in" not in said
    assert running.left_behind() == []


def test_a_model_that_cannot_be_loaded_ends_it_with_the_neuron_s_reason(up: Callable[..., Up]) -> None:
    """Ready means that the model answers."""
    running = up(STAND_IN_NEURON="failing")
    running.start()
    code, said = running.end()
    assert code == 1
    assert "cortex-neuron of host here could not load\ndemo: no such file: x.gguf" in said
    assert running.left_behind() == []


def test_it_is_not_ready_before_the_gateway_has_heard_from_the_neuron(up: Callable[..., Up]) -> None:
    """They start side by side, so that a gateway may have missed its first polls: a request would be a 503."""
    running = up(STAND_IN_GATEWAY="late")
    running.start()
    running.until("logs: ")
    assert "here is up" in (running.folder / "run/var/log/cortex-gateway.log").read_text()


def test_a_service_that_ignores_sigterm_is_killed_with_its_engine_on_the_second_ctrl_c(up: Callable[..., Up]) -> None:
    """An engine process has a session of its own: it is found all the same."""
    running = up(STAND_IN_NEURON="engine stubborn")
    running.start()
    running.until("logs: ")
    running.process.send_signal(signal.SIGINT)
    running.until("stopping cortex-neuron")
    started = time.monotonic()
    running.process.send_signal(signal.SIGINT)
    code, _ = running.end()
    assert code == 0
    assert time.monotonic() - started < 10
    assert running.left_behind() == []


def test_an_interruption_before_it_is_ready_stops_everything(up: Callable[..., Up]) -> None:
    """Also while a model is loading, and the exit code tells that it was not ready."""
    running = up(STAND_IN_NEURON="slow engine")
    running.start()
    running.until("loading demo")
    running.process.send_signal(signal.SIGINT)
    code, _ = running.end()
    assert code == 130
    assert running.left_behind() == []


def test_a_taken_port_is_said_before_anything_starts(up: Callable[..., Up]) -> None:
    """By host, variable and address, all of them."""
    running = up()
    with socket.create_server(("127.0.0.1", running.ports[0])), socket.create_server(("127.0.0.1", running.ports[2])):
        running.start()
        code, said = running.end()
    assert code == 1
    assert said.splitlines()[1:] == [
        f"host here: neuron_port: 127.0.0.1:{running.ports[2]}: Address already in use",
        f"host here: gateway_listen: 127.0.0.1:{running.ports[0]}: Address already in use",
    ]
    assert not (running.folder / "run/var").exists()


def test_problems_of_the_inventory_are_said_before_anything_starts(up: Callable[..., Up]) -> None:
    """The same lines as those of `cortex inventory check`."""
    running = up()
    with (running.folder / "inventory/group_vars/all.yml").open("a") as file:
        file.write("neuron_prot: 1\n")
    running.start()
    code, said = running.end()
    assert code == 1
    assert said.splitlines()[1:] == ["host here: neuron_prot: no such variable; did you mean neuron_port?"]


def test_a_failing_playbook_is_shown_whole(up: Callable[..., Up]) -> None:
    """Quiet while it works, complete when it does not."""
    running = up(real_site=True)
    (running.folder / "bin/cortex-gateway").unlink()
    running.start()
    code, said = running.end()
    assert code == 1
    assert "TASK [gateway : The program is there]" in said
    assert "ansible-playbook site.yml failed; its output is above" in said


def test_an_inventory_of_other_machines_has_nothing_to_start() -> None:
    """Remote hosts are site.yml's."""
    done = subprocess.run(
        [BIN / "cortex", "up", "-i", ROOT / "inventory/example"],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert "no host has ansible_connection local and cortex_service_manager none" in done.stdout


def test_on_a_terminal_the_stage_is_one_line_that_changes(up: Callable[..., Up]) -> None:
    """The line is wiped before each change and shows how far the load is."""
    running = up()
    terminal, theirs = pty.openpty()
    running.start(stdout=theirs)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # a terminal whose other side is closed says EIO
        while b"logs: " not in said:
            said += os.read(terminal, 4096)
    running.process.terminate()
    running.process.wait(timeout=PATIENCE_S)
    os.close(terminal)
    before_ready = said.decode().partition("ready in")[0]
    assert "\n" not in before_ready
    assert "\r\x1b[Kloading demo weights 42%" in before_ready
