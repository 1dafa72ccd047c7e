"""neuron.toml is right or the daemon does not start (case L11)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cortex_neuron import cli

GOOD = '[neuron]\nname = "here"\n[[models]]\nid = "m"\nsource = "/m"\nvram_mb = 10\n'


def _judge(path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    path.write_text(text)
    code = cli.main(["--check-config", str(path)])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_a_good_file_is_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0."""
    assert _judge(tmp_path / "neuron.toml", GOOD, capsys) == (0, "ok\n")


def test_all_problems_are_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown keys and wrong values, each with file and key; exit code 2."""
    code, said = _judge(
        tmp_path / "neuron.toml", GOOD.replace("[[models]]", 'prot = 1\nport = "x"\n[[models]]'), capsys
    )
    assert code == 2
    assert f"{tmp_path}/neuron.toml: neuron.prot: it is 1: unknown key" in said
    assert f"{tmp_path}/neuron.toml: neuron.port" in said


def test_a_missing_file_is_an_error_not_a_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the file."""
    assert cli.main(["--config", str(tmp_path / "none.toml")]) == 2
    assert "none.toml: cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("addition", "complaint"),
    [
        ('[[models]]\nid = "n"\nsource = "/n"\nvram_mb = 1\naliases = ["m"]\n', "the name 'm' is given 2 times"),
        ('[[models]]\nid = "m"\nsource = "/n"\nvram_mb = 1\n', "the name 'm' is given 2 times"),
    ],
)
def test_names_that_collide_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], addition: str, complaint: str
) -> None:
    """An id or alias must mean one model."""
    code, said = _judge(tmp_path / "neuron.toml", GOOD + addition, capsys)
    assert code == 2
    assert complaint in said


def test_a_folder_too_deep_for_sockets_is_said_before_it_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Unix socket's path is short, and the kernel's error does not say so."""
    deep = GOOD.replace('"here"', f'"here"\nruntime_dir = "/{"x" * 100}"')
    code, said = _judge(tmp_path / "neuron.toml", deep, capsys)
    assert code == 2
    assert "neuron.runtime_dir" in said


def test_the_daemon_imports_neither_torch_nor_transformers() -> None:
    """It must be light, and a wedged engine must not be able to wedge it."""
    probe = "import sys, cortex_neuron.daemon; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
