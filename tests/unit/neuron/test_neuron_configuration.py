"""neuron.toml and models.toml are right or the daemon does not start (case L11)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cortex_contracts.inventory.files import ConfigInvalid
from cortex_neuron import cli
from cortex_neuron.configuration import Files

GOOD = '[neuron]\nname = "here"\n'
MODELS = '[[models]]\nid = "m"\nsource = "/m"\nvram_mb = 10\n'


def _judge(path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """What the program says of one file; by its name it knows which."""
    path.write_text(text)
    code = cli.main(["--check-models" if path.name == "models.toml" else "--check-config", str(path)])
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.mark.parametrize(("name", "text"), [("neuron.toml", GOOD), ("models.toml", MODELS), ("models.toml", "")])
def test_a_good_file_is_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str) -> None:
    """Exit code 0."""
    assert _judge(tmp_path / name, text, capsys) == (0, "ok\n")


def test_all_problems_are_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown keys and wrong values, each with file and key, of both files; exit code 2. A catalogue has its own."""
    config, models = tmp_path / "neuron.toml", tmp_path / "models.toml"
    config.write_text(f'{GOOD}prot = 1\nport = "x"\n{MODELS}')
    models.write_text(f"{MODELS}vram = 3\n")
    assert cli.main(["--check-config", str(config), "--check-models", str(models)]) == 2
    said = capsys.readouterr().err
    assert f"{config}: neuron.prot: it is 1: unknown key" in said
    assert f"{config}: neuron.port" in said
    assert f"{config}: models: it is a list: unknown key" in said
    assert f"{models}: models.0.vram: it is 3: unknown key" in said


def test_missing_files_are_errors_not_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is named."""
    assert cli.main(["--config", str(tmp_path / "none.toml"), "--models", str(tmp_path / "neither.toml")]) == 2
    said = capsys.readouterr().err
    assert "none.toml: cannot be read: No such file" in said
    assert "neither.toml: cannot be read: No such file" in said


def test_what_is_read_is_what_is_digested(tmp_path: Path) -> None:
    """As `sha256sum` prints it, so that an operator can compare; what cannot be read has no digest."""
    config, models = tmp_path / "neuron.toml", tmp_path / "models.toml"
    config.write_text(GOOD)
    models.write_text(MODELS)
    known = Files(str(config), str(models)).read()
    printed = subprocess.run(["sha256sum", config, models], capture_output=True, text=True, check=True).stdout
    assert [*known.files] == ["neuron.toml", "models.toml"]
    assert [line.split()[0] for line in printed.splitlines()] == [*known.files.values()]
    assert (known.settings.name, [model.id for model in known.models]) == ("here", ["m"])
    models.write_bytes(b"\xff")
    with pytest.raises(ConfigInvalid, match=r"models.toml: not UTF-8: invalid start byte at byte 0"):
        Files(str(config), str(models)).read()


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
    code, said = _judge(tmp_path / "models.toml", MODELS + addition, capsys)
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
