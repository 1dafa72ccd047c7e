"""site.yml by the real ansible-playbook: every declared value arrives in the files; a second run changes nothing."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from site_playbook import BIN, Run, run_site, write_inventory

from cortex_contracts.inventory.clients import KeyEntry
from cortex_contracts.inventory.files import File, GatewayFile, KeysFile, ModelsFile, NeuronFile, parse
from cortex_contracts.inventory.fleet import Fleet, Gateway, Model, Neuron
from cortex_status.inventory import fleet, read

MODEL: dict[str, Any] = {
    "id": "org/größe-8b:q4",
    "source": '/models/a "quoted" 😀 \\ folder',
    "harness": "vllm",
    "task": "generate",
    "quant": "awq",
    "vram_mb": 18000,
    "sampling": {"temperature": 0.5, "top_k": 20.0},
    "min_devices": 2,
    "min_device_vram_mb": 9000,
    "tensor_parallel": 2,
    "pipeline_parallel": 2,
    "ray_hosts": 2,
    "engine_args": ["--enforce-eager", '--hf-overrides={"a": "b"}'],
    "pinned_on": ["n1"],
    "preload_on": ["n1"],
    "priority": -3,
    "aliases": ["chat", "size:8b"],
    "context": 8192,
    "capabilities": ["tools", "images"],
    "tool_parser": "qwen_xml",
    "matryoshka": True,
    "kv_cache_dtype": "fp8",
    "speculative": {
        "method": "draft_model",
        "model": '/models/a "small" folder',
        "num_speculative_tokens": 3,
        "prompt_lookup_max": 4,
        "prompt_lookup_min": 2,
    },
}
GATEWAY: dict[str, Any] = {
    "listen": "127.0.0.1:8000",
    "metrics_listen": "[::1]:8001",
    "eviction_strategy": "priority",
    "defrag_after_cycles": 7,
    "body_limit_mb": 3,
    "connect_timeout_s": 1.5,
    "idle_timeout_s": 61,
    "cold_load_timeout_s": 301,
    "poll_interval_s": 0.00001,
    "drain_timeout_s": 31,
    "workers": 2,
    "queue_limit": 9,
    "access_log": "/var/log/cortex/access.jsonl",
    "otlp_endpoint": "http://127.0.0.1:4318",
    "api_keys": [
        {"name": "alice", "key": "canary-of-alice-0123456789", "models": ["chat"], "priority": "high"},
        {"name": "ci", "key": f"sha256:{'5' * 64}", "requests_per_minute": 5, "concurrent_requests": 2},
    ],
    "admin_key": "canary-of-the-operators-0123",
    "anonymous": "allow",
    "anonymous_allowance": {"models": ["plain"], "tokens_per_minute": 1000, "priority": "low"},
}
KEYS = ("api_keys", "admin_key", "anonymous", "anonymous_allowance")
NEURON: dict[str, Any] = {
    "bind": "::1",
    "port": 14000,
    "devices": [1, 3],
    "drained": True,
    "environment": {"HF_TOKEN": 'a "token"', "A.B": "ü", "EMPTY": ""},
    "cpu_threads": 3,
    "max_sequences": 5,
    "max_step_tokens": 77,
    "queue_limit": 0,
    "body_limit_mb": 4,
    "load_timeout_s": 901,
    "init_timeout_s": 61,
    "step_timeout_s": 121,
    "drain_timeout_s": 32.5,
    "sleep_host_memory_mb": 4096,
    "otlp_endpoint": "http://127.0.0.1:4319",
    "vllm_bin": "/opt/a vllm/bin/vllm",
    "vllm_ray_address": "192.0.2.5:6379",
    "hub_token": "canary-of-the-hub",
}


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True)
class Rendered:
    """A site.yml that ran dry, for real, again, and dry again."""

    folder: Path
    fleet: Fleet
    fresh_check: Run
    untouched_after_check: bool
    first: Run
    second: Run
    converged_check: Run
    talkative: Run

    def read(self, host: str, path: str, shape: type[File]) -> File:
        file = self.folder / host / path
        return parse(file.read_text(), str(file), shape)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """Host n1 has every setting unlike its default, n2 has none at all."""
    folder = tmp_path_factory.mktemp("site")
    prefixes = {name: {"cortex_prefix": str(folder / name)} for name in ("gw", "n1", "n2")}
    hosts = {
        "gw": prefixes["gw"] | {f"gateway_{name}": value for name, value in GATEWAY.items()},
        "n1": prefixes["n1"] | {f"neuron_{name}": value for name, value in NEURON.items()},
        "n2": prefixes["n2"] | {"ansible_host": "fd00::2"},
    }
    catalogue = [MODEL, {"id": "plain", "source": "org/plain", "vram_mb": 1}]
    inventory = write_inventory(folder / "inventory", hosts, {"cortex_models": catalogue})
    fresh_check = run_site(inventory, "--check", "--diff")
    return Rendered(
        folder=folder,
        fleet=fleet(read([str(inventory)])),
        fresh_check=fresh_check,
        untouched_after_check=not any((folder / name).exists() for name in prefixes),
        first=run_site(inventory, as_typed=True),
        second=run_site(inventory),
        converged_check=run_site(inventory, "--check", "--diff"),
        talkative=run_site(
            inventory, "--diff", "-vvv", "-e", json.dumps({"cortex_prefix": str(folder / "other")}), as_typed=True
        ),
    )


def test_the_test_sets_every_field_unlike_its_default() -> None:
    """A field that the schema gains is rendered by this test too, or this fails."""
    for shape, values in ((Gateway, GATEWAY), (Neuron, NEURON), (Model, MODEL)):
        assert values.keys() == shape.model_fields.keys()
        assert not [name for name, field in shape.model_fields.items() if field.default == values[name]]


def test_a_run_succeeds_without_privileges(rendered: Rendered) -> None:
    """With a prefix and without a service manager nothing outside the prefix is needed."""
    assert rendered.first.returncode == 0, rendered.first.output
    assert rendered.first.count("changed") > 0


def test_a_second_run_changes_nothing(rendered: Rendered) -> None:
    """Nor would it restart anything."""
    assert rendered.second.returncode == 0, rendered.second.output
    assert rendered.second.count("changed") == 0, rendered.second.output
    assert "RUNNING HANDLER" not in rendered.second.output


def test_a_dry_run_works_on_a_fresh_host_and_touches_nothing(rendered: Rendered) -> None:
    """--check --diff shows what would be written where no folder exists yet."""
    assert rendered.fresh_check.returncode == 0, rendered.fresh_check.output
    assert '+listen = "127.0.0.1:8000"' in rendered.fresh_check.output
    assert rendered.untouched_after_check


def test_a_dry_run_on_a_converged_host_shows_no_change(rendered: Rendered) -> None:
    """What --check calls a change is one."""
    assert rendered.converged_check.returncode == 0, rendered.converged_check.output
    assert rendered.converged_check.count("changed") == 0, rendered.converged_check.output


def test_cortex_toml_is_the_fleet_s_gateway_and_neurons(rendered: Rendered) -> None:
    """Every field, exactly; and every neuron with the URL the gateway uses."""
    file = rendered.read("gw", "etc/cortex/cortex.toml", GatewayFile)
    [gateway] = rendered.fleet.gateways
    settings = {name: value for name, value in GATEWAY.items() if name not in KEYS}
    assert gateway.model_dump(exclude={"name", "address", *KEYS}) == settings
    assert {
        **file.gateway.model_dump(),
        "eviction_strategy": file.eviction.strategy,
        "defrag_after_cycles": file.eviction.defrag_after_cycles,
    } == settings | {"access_log": f"{rendered.folder}/gw/var/log/cortex/access.jsonl"}
    assert [(neuron.name, neuron.url) for neuron in file.neurons] == [
        ("n1", "http://n1:14000"),
        ("n2", "http://[fd00::2]:13131"),
    ]


@pytest.mark.parametrize(
    "file", ["gw/etc/cortex/models.toml", "n1/etc/neuron/models.toml", "n2/etc/neuron/models.toml"]
)
def test_models_toml_is_the_catalogue(rendered: Rendered, file: str) -> None:
    """Every key of every entry, exactly; the whole of it on every host, in the same bytes."""
    host, _, path = file.partition("/")
    assert (rendered.folder / file).read_bytes() == (rendered.folder / "gw/etc/cortex/models.toml").read_bytes()
    catalogue = rendered.read(host, path, ModelsFile)
    assert catalogue.models == rendered.fleet.models
    assert catalogue.models[0].model_dump(mode="json") == MODEL


def test_keys_toml_is_the_keys_as_digests(rendered: Rendered) -> None:
    """Every key of every entry, exactly, but for the keys themselves; and nobody else may read it (case D4)."""
    file = rendered.read("gw", "etc/cortex/keys.toml", KeysFile)
    [gateway] = rendered.fleet.gateways
    assert file.keys == tuple(KeyEntry.of(key) for key in gateway.api_keys)
    assert [(key.name, key.sha256, key.models, key.requests_per_minute) for key in file.keys] == [
        ("alice", digest(GATEWAY["api_keys"][0]["key"]), ("chat",), None),
        ("ci", "5" * 64, (), 5),
    ]
    assert file.admin_sha256 == digest(GATEWAY["admin_key"])
    assert (file.anonymous, file.anonymous_allowance) == ("allow", gateway.anonymous_allowance)
    assert (rendered.folder / "gw/etc/cortex/keys.toml").stat().st_mode & 0o777 == 0o640


def test_the_access_log_has_its_folder(rendered: Rendered) -> None:
    """The gateway need only open it."""
    assert (rendered.folder / "gw/var/log/cortex/access.jsonl").stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize("host", ["n1", "n2"])
def test_neuron_toml_is_the_host_s_settings(rendered: Rendered, host: str) -> None:
    """Every field, exactly: of a host with all of its own, and of one with the defaults."""
    file = rendered.read(host, "etc/neuron/neuron.toml", NeuronFile)
    declared = next(neuron for neuron in rendered.fleet.neurons if neuron.name == host)
    folders = {name: str(rendered.folder / host / path) for name, path in FOLDERS.items()}
    assert file.neuron.model_dump() == declared.model_dump(exclude={"address", "hub_token"}) | folders


FOLDERS = {"runtime_dir": "run/neuron"}


def test_every_setting_stands_in_the_file_also_where_it_is_the_default(rendered: Rendered) -> None:
    """Who reads a file on a host sees all that holds there; none alone cannot be written in TOML."""
    section = tomllib.loads((rendered.folder / "n2/etc/neuron/neuron.toml").read_text())["neuron"]
    absent = {name for name, field in Neuron.model_fields.items() if field.default is None}
    assert section.keys() == Neuron.model_fields.keys() - absent | {"name", *FOLDERS}


def test_no_key_is_in_any_output_or_file(rendered: Rendered) -> None:
    """Neither with -vvv, nor in a diff, nor on a host: a canary of each is looked for everywhere."""
    runs = (rendered.fresh_check, rendered.first, rendered.second, rendered.converged_check, rendered.talkative)
    texts = [run.output for run in runs]
    token = rendered.folder / "n1/etc/neuron/hub-token"
    for host in ("gw", "n1", "n2"):
        files = [file for file in (rendered.folder / host).rglob("*") if file.is_file() and file != token]
        texts += [file.read_text() for file in files]
    assert not [text for text in texts if "canary" in text]
    assert not [run for run in runs if digest(GATEWAY["admin_key"]) in run.output]


def test_the_hub_s_token_is_a_file_of_its_own_while_it_is_declared(rendered: Rendered, tmp_path: Path) -> None:
    """Which nobody else may read (case D4), and which goes when the variable does."""
    token = rendered.folder / "n1/etc/neuron/hub-token"
    assert token.read_text() == NEURON["hub_token"]
    assert token.stat().st_mode & 0o777 == 0o640
    assert not (rendered.folder / "n2/etc/neuron/hub-token").exists()
    hosts = {name: {"cortex_prefix": str(tmp_path / name)} for name in ("gw", "n1")}
    declared = write_inventory(tmp_path / "declared", hosts, {"neuron_hub_token": "canary-of-the-hub"})
    removed = write_inventory(tmp_path / "removed", hosts, {})
    assert run_site(declared, "--tags", "neuron").returncode == 0
    assert (tmp_path / "n1/etc/neuron/hub-token").exists()
    dry, real, again = (
        run_site(removed, "--tags", "neuron", *more) for more in (("--check", "--diff"), ("--diff",), ())
    )
    assert [run.returncode for run in (dry, real, again)] == [0, 0, 0]
    assert (dry.count("changed"), real.count("changed"), again.count("changed")) == (1, 1, 0)
    assert not (tmp_path / "n1/etc/neuron/hub-token").exists()
    assert "canary" not in dry.output + real.output


def test_an_environment_is_in_no_output_and_no_world_readable_file(rendered: Rendered) -> None:
    """It may hold tokens."""
    for run in (rendered.fresh_check, rendered.first, rendered.second, rendered.converged_check):
        assert "HF_TOKEN" not in run.output
    assert (rendered.folder / "n1/etc/neuron/neuron.toml").stat().st_mode & 0o007 == 0


def test_keys_out_of_a_vault_reach_the_gateway_as_digests_alone(tmp_path: Path) -> None:
    """A file that ansible-vault has encrypted whole, opened by a password file."""
    hosts = {name: {"cortex_prefix": str(tmp_path / name)} for name in ("gw", "n1")}
    hosts["gw"]["gateway_admin_key"] = "{{ vault_admin_key }}"
    inventory = write_inventory(tmp_path / "inventory", hosts, {"cortex_models": []})
    vault, password = inventory / "group_vars/gateway/vault.yml", tmp_path / "password"
    vault.parent.mkdir(parents=True)
    vault.write_text("vault_admin_key: canary-of-the-operators\n")
    password.write_text("correct horse\n")
    command = [BIN / "ansible-vault", "encrypt", "--vault-password-file", password, vault]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    run = run_site(inventory, "--vault-password-file", str(password), "--diff", "-vvv", as_typed=True)
    assert run.returncode == 0, run.output
    file = tmp_path / "gw/etc/cortex/keys.toml"
    assert parse(file.read_text(), str(file), KeysFile).admin_sha256 == digest("canary-of-the-operators")
    assert "canary" not in run.output
