"""API keys in the inventory: what is wrong with them is said, and no key is shown anywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cortex_contracts.inventory.clients import KeyEntry
from cortex_contracts.inventory.problems import build, problems
from cortex_contracts.inventory.variables import Unreadable
from cortex_status.inventory import fleet, read

CANARY = "canary-0123456789"
MODELS = [{"id": "qwen3-8b", "source": "x", "vram_mb": 1, "aliases": ["chat"]}]
GROUPS = {"gateway": ["gw", "gw2"], "neurons": ["n1"]}
ALICE = {"name": "alice", "key": f"{CANARY}-of-alice", "models": ["chat"]}
BOB = {"name": "bob", "key": f"sha256:{'b' * 64}", "tokens_per_minute": 9}


def hosts(**variables: Any) -> dict[str, dict[str, Any]]:
    """Two gateways and a neuron; the first gateway has what the test gives, without the prefix."""
    declared = {f"gateway_{name}": value for name, value in variables.items()}
    shared = {"cortex_models": MODELS}
    return {"gw": {**shared, **declared}, "gw2": shared, "n1": shared}


def found(**variables: Any) -> list[str]:
    lines = problems(hosts(**variables), GROUPS)
    assert CANARY not in "\n".join(lines)
    return lines


def test_keys_are_declared_by_gateway() -> None:
    """Each gateway may have its own; a digest stands for the key that it is of."""
    fleet = build(hosts(api_keys=[ALICE, BOB], admin_key=CANARY, anonymous_allowance={"models": ["chat"]}), GROUPS)
    first, second = fleet.gateways
    assert [key.name for key in first.api_keys] == ["alice", "bob"]
    assert [KeyEntry.of(key).sha256 for key in first.api_keys][1] == "b" * 64
    assert (second.api_keys, second.admin_key, second.anonymous) == ((), None, "auto")
    assert CANARY not in fleet.model_dump_json() + repr(fleet) + str(fleet.model_dump())


@pytest.mark.parametrize(
    ("variables", "lines"),
    [
        (
            {"api_keys": [{"name": "alice", "key": "canary-short"}]},
            ["entry 1: key: should be 16 or more printable ASCII characters without blanks around them, is a str"],
        ),
        (
            {"api_keys": [{"name": "alice", "key": f"sha256:{CANARY}"}]},
            ["entry 1: key: after sha256: there should be 64 hexadecimal digits in lower case, is a str"],
        ),
        ({"api_keys": [{"name": CANARY, "key": "alice"}]}, ["entry 1: key: should be 16 or more"]),
        ({"api_keys": [{"name": f"{CANARY}=", "key": CANARY}]}, ["entry 1: name: should be such as 'alice'"]),
        (
            {"api_keys": [{"name": "alice", "key": 1234567890123456}]},
            ["entry 1: key: should be text, is a int"],
        ),
        ({"api_keys": [ALICE, {"name": "bob"}]}, ["entry 2: key: is missing"]),
        ({"api_keys": [{**ALICE, "modles": ["chat"]}]}, ["entry 1: modles: no such key; did you mean models?"]),
        (
            {"api_keys": [{**ALICE, "requests_per_minute": 0}]},
            ["entry 1: requests_per_minute: should be greater than 0, is 0"],
        ),
        ({"api_keys": [{**ALICE, "priority": "urgent"}]}, ["entry 1: priority: should be 'low', 'normal' or 'high'"]),
        ({"api_keys": {"alice": CANARY}}, ["should be a list of entries, is a dict"]),
        ({"api_keys": [CANARY]}, ["entry 1: should be keys and values, is a str"]),
        ({"api_keys": Unreadable("no password")}, ["no password"]),
        ({"api_keys": [ALICE, {**BOB, "name": "alice"}]}, ["alice: name: is there twice"]),
        ({"api_keys": [ALICE, {**ALICE, "name": "carol"}]}, ["carol: key: is also that of alice"]),
        ({"api_keys": [{**BOB, "name": "anonymous"}]}, ["anonymous: name: is what requests without a key go by"]),
        (
            {"api_keys": [{**BOB, "name": "operator"}]},
            ["operator: name: is what requests with gateway_admin_key go by"],
        ),
        (
            {"api_keys": [{**ALICE, "models": ["qwen3-8"]}]},
            ["alice: models: 'qwen3-8' is no model of cortex_models; did you mean qwen3-8b?"],
        ),
        (
            {"api_keys": [{"name": "x", "key": "no"}, {**ALICE, "models": ["none"]}]},
            ["entry 1: key: should be 16", "alice: models: 'none' is no model"],
        ),
    ],
)
def test_a_fault_of_a_key_names_the_entry_and_never_the_key(variables: dict[str, Any], lines: list[str]) -> None:
    """Also where it stands in the wrong place; relations name the key's owner."""
    told = found(**variables)
    assert len(told) == len(lines)
    for line, expected in zip(told, lines, strict=True):
        assert line.startswith(f"host gw: gateway_api_keys: {expected}")


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"admin_key": "canary-short"}, "gateway_admin_key: should be 16 or more printable ASCII"),
        ({"admin_key": [CANARY]}, "gateway_admin_key: should be text, is a list"),
        (
            {"admin_key": ALICE["key"], "api_keys": [ALICE]},
            "gateway_api_keys: alice: key: is also that of gateway_admin_key",
        ),
        ({"anonymous": True}, "gateway_anonymous: should not be true or false, is True"),
        ({"anonymous": "yes"}, "gateway_anonymous: should be 'auto', 'allow' or 'refuse', is 'yes'"),
        (
            {"anonymous_allowance": {"model": ["chat"]}},
            "gateway_anonymous_allowance: model: no such key; did you mean models?",
        ),
        (
            {"anonymous_allowance": {"models": ["caht"]}},
            "gateway_anonymous_allowance: models: 'caht' is no model of cortex_models; did you mean chat?",
        ),
        ({"anonymous_allowance": "none"}, "gateway_anonymous_allowance: "),
        ({"api_key": [ALICE]}, "gateway_api_key: no such variable; did you mean gateway_api_keys?"),
    ],
)
def test_a_fault_of_the_other_variables_is_one_line(variables: dict[str, Any], line: str) -> None:
    """In the inventory's words, with a suggestion where one is close."""
    [told] = found(**variables)
    assert told.startswith(f"host gw: {line}")


def test_too_many_keys_are_refused() -> None:
    """The gateway's counts have room for so many."""
    many = [{"name": f"k{number}", "key": f"sha256:{number:064x}"} for number in range(1001)]
    assert found(api_keys=many) == ["host gw: gateway_api_keys: should be 1000 entries at most, is 1001"]


@pytest.fixture
def vaulted(tmp_path: Path) -> Path:
    """An inventory whose gateway's variables are in an encrypted file, with one of them encrypted again."""
    (tmp_path / "password").write_text("correct horse\n")
    folder = tmp_path / "inventory/group_vars/gateway"
    folder.mkdir(parents=True)
    (tmp_path / "inventory/hosts.yml").write_text("gateway: {hosts: {gw: {}}}\nneurons: {hosts: {n1: {}}}\n")
    (folder / "vars.yml").write_text(
        "gateway_admin_key: '{{ vault_admin }}'\n"
        "gateway_api_keys:\n- {name: alice, key: '{{ vault_alice }}'}\n- name: bob\n  key: !vault |\n"
        + "".join(f"    {line}\n" for line in _vault(tmp_path, "encrypt_string", f"{CANARY}-of-bob").splitlines()[1:])
    )
    (folder / "vault.yml").write_text(yaml.safe_dump({"vault_admin": CANARY, "vault_alice": f"{CANARY}-of-alice"}))
    _vault(tmp_path, "encrypt", str(folder / "vault.yml"))
    return tmp_path


def _vault(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "ansible", "vault", *arguments, f"--vault-password-file={folder / 'password'}"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_keys_come_out_of_a_vault(vaulted: Path) -> None:
    """A file that is encrypted whole, and a single value."""
    [gateway] = fleet(read([str(vaulted / "inventory")], [str(vaulted / "password")])).gateways
    assert gateway.admin_key is not None
    assert gateway.admin_key.get_secret_value() == CANARY
    assert [key.key.get_secret_value() for key in gateway.api_keys] == [f"{CANARY}-of-alice", f"{CANARY}-of-bob"]


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_the_check_shows_no_key(vaulted: Path, arguments: tuple[str, ...]) -> None:
    """Neither as text nor as JSON, which has the whole fleet."""
    done = subprocess.run(
        [
            Path(sys.executable).parent / "cortex",
            *("inventory", "check", "-i", vaulted / "inventory", "--vault-password-file", vaulted / "password"),
            *arguments,
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "canary" not in done.stdout + done.stderr


def test_the_local_inventory_s_admin_key_is_made_once_and_is_its_owner_s_alone() -> None:
    """So that `cortex explain -i inventory/local` works at once, and nothing secret is in the repository."""
    root = Path(__file__).parents[3]
    keys = [fleet(read([str(root / "inventory/local")])).gateways[0].admin_key for _ in range(2)]
    file = root / "build/local/admin_key"
    assert keys[0] is not None
    assert keys[0].get_secret_value() == file.read_text().strip()
    assert keys[0] == keys[1]
    assert file.stat().st_mode & 0o777 == 0o600
