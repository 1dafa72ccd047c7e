"""cortex-gateway's checks of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from cortex_gateway.cli import main

GOOD_CONFIG = '[gateway]\nlisten = "127.0.0.1:1"\n[[neurons]]\nname = "a"\nurl = "http://a:1"\n'
GOOD_KEYS = f'admin_sha256 = "{"0" * 64}"\n[[keys]]\nname = "alice"\nsha256 = "{"1" * 64}"\nmodels = ["k"]\n'
GOOD_MODELS = '[[models]]\nid = "m"\nsource = "x"\nvram_mb = 1\naliases = ["k"]\n'


def test_good_files_are_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cortex.toml").write_text(GOOD_CONFIG)
    (tmp_path / "models.toml").write_text(GOOD_MODELS)
    assert main(["--check-config", str(tmp_path / "cortex.toml")]) == 0
    assert main(["--check-models", str(tmp_path / "models.toml")]) == 0
    (tmp_path / "keys.toml").write_text(GOOD_KEYS)
    assert main(["--check-keys", str(tmp_path / "keys.toml")]) == 0
    assert capsys.readouterr().out == "ok\n" * 3


@pytest.mark.parametrize(
    ("option", "text", "expected"),
    [
        ("--check-config", "[gateway]\nlissen = 3\nidle_timeout_s = -1\n", ["gateway.lissen", "unknown key", "-1"]),
        ("--check-config", GOOD_CONFIG + '[[neurons]]\nname = "a"\nurl = "b:1"\n', ["'a' is there twice", "'b:1'"]),
        ("--check-config", GOOD_CONFIG + '[[neurons]]\nname = "b"\nurl = "http://a:1/"\n', ["also that of 'a'"]),
        ("--check-config", "[gateway", ["not TOML"]),
        ("--check-models", GOOD_MODELS * 2, ["'m' is already a name of 'm'", "'k' is already a name of 'm'"]),
        ("--check-models", '[[models]]\nid = "m"\n', ["models.0.source", "models.0.vram_mb"]),
        (
            "--check-keys",
            'anonymous = "perhaps"\nadmin_key = "x"\n',
            ["anonymous: it is 'perhaps'", "admin_key", "unknown"],
        ),
        ("--check-keys", '[[keys]]\nname = "a b"\nsha256 = "1"\n', ["keys.0.name", "keys.0.sha256"]),
        ("--check-keys", GOOD_KEYS.replace("1" * 64, "0" * 64), ["keys.0.sha256: is also that of admin_sha256"]),
    ],
)
def test_every_problem_is_named_with_its_file_key_and_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, text: str, expected: list[str]
) -> None:
    """All at once, and exit code 2 (L11)."""
    path = tmp_path / "file.toml"
    path.write_text(text)
    assert main([option, str(path)]) == 2
    said = capsys.readouterr().err
    assert all(line.startswith(f"{path}: ") for line in said.splitlines())
    for words in expected:
        assert words in said


def test_a_key_in_the_place_of_a_digest_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line ends in a log."""
    path = tmp_path / "keys.toml"
    path.write_text(
        'admin_sha256 = "canary-1"\nadmin_key = "canary-2"\n[[keys]]\nname = "canary 3"\nsha256 = "canary-4"\n'
    )
    assert main(["--check-keys", str(path)]) == 2
    said = capsys.readouterr().err
    assert "admin_sha256" in said
    assert "canary" not in said


def test_a_model_that_only_an_allow_list_knows_stops_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key would silently be useless (L11)."""
    for name, text in (("cortex", GOOD_CONFIG), ("models", GOOD_MODELS), ("keys", GOOD_KEYS.replace('"k"', '"kk"'))):
        (tmp_path / f"{name}.toml").write_text(text)
    files = [
        f"--{option}={tmp_path / name}.toml"
        for option, name in (("config", "cortex"), ("models", "models"), ("keys", "keys"))
    ]
    assert main(files) == 2
    assert f"{tmp_path}/keys.toml: keys.0.models.0: 'kk' is no model of models.toml" in capsys.readouterr().err


def test_missing_files_stop_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both are named; there are no defaults to fall back to (L11)."""
    config, models = tmp_path / "cortex.toml", tmp_path / "models.toml"
    assert main(["--config", str(config), "--models", str(models)]) == 2
    said = capsys.readouterr().err
    assert f"{config}: cannot be read: No such file or directory" in said
    assert f"{models}: cannot be read: No such file or directory" in said
