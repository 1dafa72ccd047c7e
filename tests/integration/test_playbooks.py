"""The playbooks beside site.yml, as they are typed, on hosts that are this machine: a prefix each, and no systemd."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from free_ports import free_port
from neuron_process import running_neuron
from site_playbook import ROOT, Run, run_site, write_inventory
from yarl import URL

OWN_CHECKS = ("inventory_check.yml", "driver.yml", "monitoring.yml")  # the check itself, and parts of site.yml
PLAYBOOKS = [path for path in sorted((ROOT / "ansible").glob("*.yml")) if path.name not in OWN_CHECKS]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CATALOGUE = [
    {"id": "tiny", "source": "lab/tiny", "vram_mb": 1, "preload_on": ["n1"]},
    {"id": "plain", "source": "lab/plain@v2", "vram_mb": 1, "aliases": ["simple"]},
]
SECRETS = {
    "neuron_hub_token": "canary-of-the-hub",
    "neuron_environment": {"HF_ENDPOINT": "http://127.0.0.1:9", "SECRET": "canary-of-the-environment"},
}


def run(inventory: Path, name: str, *arguments: str, as_typed: bool = False) -> Run:
    return run_site(inventory, *arguments, playbook=f"ansible/{name}.yml", as_typed=as_typed)


def inventory(folder: Path, hosts: dict[str, Any], **everywhere: Any) -> Path:
    """Hosts under a prefix, whose files no other has."""
    ports = {name: {} if name.startswith("gw") else {"neuron_port": free_port()} for name in hosts}
    prefixed = {name: {"cortex_prefix": f"{folder}/{name}", **ports[name], **values} for name, values in hosts.items()}
    addresses = {"ansible_host": "127.0.0.1", "neuron_devices": "cpu", "cortex_models": CATALOGUE}
    return write_inventory(folder / "inventory", prefixed, {**addresses, **everywhere})


def words(run: Run) -> str:
    """Without the line breaks of YAML."""
    return " ".join(run.output.split())


@contextmanager
def listening() -> Iterator[int]:
    """A port that a program has which is none of cortex's."""
    with socket.create_server(("127.0.0.1", free_port())) as server:
        yield int(server.getsockname()[1])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("drain", ()),
        ("drain", ("--limit", "n1,n2")),
        ("drain", ("--limit", "neurons", "--check")),
        ("drain", ("--tags", "neuron")),
        ("undrain", ()),
    ],
)
def test_a_fleet_is_not_drained_by_a_word_too_few(tmp_path: Path, name: str, arguments: tuple[str, ...]) -> None:
    """Nor by a limit that leaves out no neuron; the message says what to add."""
    ended = run(inventory(tmp_path, {"gw": {}, "n1": {}, "n2": {}}), name, *arguments)
    assert ended.returncode != 0
    expected = f"this would {name} the whole fleet (n1, n2): name hosts with --limit, or say -e all_hosts=true"
    assert expected in words(ended)


def test_a_limit_that_leaves_no_neuron_drains_nothing_and_says_so(tmp_path: Path) -> None:
    """A misspelt group is no success."""
    ended = run(inventory(tmp_path, {"gw": {}, "n1": {}, "n2": {}}), "drain", "--limit", "gw")
    assert ended.returncode != 0
    assert "none of the hosts of --limit is in the group neurons: nothing to drain" in words(ended)


def test_a_playbook_of_its_own_refuses_a_wrong_inventory_as_site_does(tmp_path: Path) -> None:
    """Whatever else it was told."""
    wrong = inventory(tmp_path, {"gw": {}, "n1": {"neuron_prot": 1}})
    ended = run(wrong, "uninstall", "--limit", "n1", "-e", "uninstall=yes")
    assert ended.returncode != 0
    assert "host n1: neuron_prot: no such variable; did you mean neuron_port?" in ended.output


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.name)
def test_every_playbook_checks_the_inventory_and_says_at_its_top_how_it_is_called(path: Path) -> None:
    """By its own name; first of all."""
    text = path.read_text()
    top = text.split("\n\n")[0]
    assert top.startswith("---\n#")
    assert "ansible-playbook -i inventory/" in top
    assert f"ansible/{path.name}" in top
    assert yaml.safe_load(text)[0]["ansible.builtin.import_playbook"] == "inventory_check.yml"


def test_check_says_all_that_is_wrong_of_all_hosts_at_once(tmp_path: Path) -> None:
    """A host that cannot be reached keeps no other from being looked at."""
    with listening() as taken:
        gone = {"ansible_connection": "ssh", "ansible_port": free_port(), "ansible_ssh_common_args": "-o BatchMode=yes"}
        hosts: dict[str, Any] = {
            "gw": {"gateway_listen": f"127.0.0.1:{taken}", "gateway_metrics_listen": f"127.0.0.1:{free_port()}"},
            "n1": {"cortex_python": "/no/python"},
            "n2": {"neuron_vllm_bin": "/no/vllm"},
            "n3": gone,
        }
        catalogue = [{"id": "m", "source": "/no/model", "vram_mb": 1, "preload_on": ["n2"]}]
        ended = run(inventory(tmp_path, hosts, cortex_models=catalogue), "check")
    assert ended.returncode != 0
    lines = {line.strip() for line in ended.output.splitlines()}
    assert "host n2: neuron_vllm_bin: should be a program of the host, /no/vllm is none" in lines
    assert "host n2: model m: should have /no/model here, where the inventory preloads it, has not" in lines
    for beginning in (
        f"host gw: gateway_listen: should be a free port, {taken} is taken by ",
        "host n1: cortex_python: should be Python 3.11 or later, /no/python does not run: ",
        "host n3: connection: should be reachable for Ansible, ",
    ):
        assert [line for line in lines if line.startswith(beginning)], beginning
    assert (ended.count("changed"), [path.name for path in tmp_path.iterdir()]) == (0, ["inventory"])


def test_check_finds_nothing_wrong_where_nothing_is(tmp_path: Path) -> None:
    """Exit 0. In check mode it looks as well."""
    hosts = {
        "gw": {"gateway_listen": f"127.0.0.1:{free_port()}", "gateway_metrics_listen": f"127.0.0.1:{free_port()}"},
        "n1": {},
    }
    ended = run(inventory(tmp_path, hosts), "check", "--check", as_typed=True)
    assert (ended.returncode, ended.count("changed")) == (0, 0), ended.output


async def test_a_named_neuron_is_drained_until_nothing_runs_and_undrained_once_its_models_answer(
    tmp_path: Path, echo_model: Path
) -> None:
    """What it had begun ends as if nothing had happened; the other neuron, which nobody named, is not asked."""
    model = {"id": "echo", "source": str(echo_model), "vram_mb": 10, "preload_on": ["n1"]}
    async with running_neuron([model], name="n1") as neuron:
        await neuron.until_status("loaded")
        hosts = {"gw": {}, "n1": {"neuron_port": URL(neuron.url).port}, "n2": {}}
        declared = inventory(tmp_path, hosts, cortex_models=[model])
        running = asyncio.create_task(neuron.chat({"reply": "whole", "prefill_s": 8}))
        ended = await asyncio.to_thread(run, declared, "drain", "--limit", "n1", as_typed=True)
        assert ended.returncode == 0, ended.output
        assert (await neuron.get("/health"))["state"] == "draining"
        assert (await neuron.health())["in_flight"] == 0
        answered = await running
        assert (answered.status, answered.json["choices"][0]["message"]["content"]) == (200, "whole")
        ended = await asyncio.to_thread(run, declared, "undrain", "--limit", "n1", as_typed=True)
        assert ended.returncode == 0, ended.output
        assert (await neuron.get("/health"))["state"] == "ready"


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an inventory and of its hosts, as site.yml left them."""
    folder = tmp_path_factory.mktemp("made") / "once"
    found = inventory(folder, {"gw": {"gateway_access_log": "/var/log/access.jsonl"}, "n1": SECRETS})
    ended = run_site(found)
    assert ended.returncode == 0, ended.output
    shutil.copytree(folder, folder.with_name("untouched"))
    return folder


@pytest.fixture
def rendered(made_once: Path) -> Path:
    """The same, whatever another test has done to it."""
    shutil.rmtree(made_once)
    shutil.copytree(made_once.with_name("untouched"), made_once)
    return made_once / "inventory"


def hub(folder: Path) -> Path:
    """A folder with a repository as a hub's cache has it, and one as it was cloned."""
    snapshot = folder / "models--lab--tiny/snapshots" / COMMIT
    for place in (snapshot, folder / "lab/plain"):
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
        (place / "model.safetensors").write_bytes(b"weights")
        (place / "pytorch_model.bin").write_bytes(b"of no use")
    (folder / "models--lab--tiny/refs").mkdir()
    (folder / "models--lab--tiny/refs/main").write_text(COMMIT)
    return folder


def test_models_come_from_the_control_machine_where_no_hub_is(rendered: Path) -> None:
    """What the host preloads, or what is named; fetch finds them there, and a second run changes nothing."""
    folder = rendered.parent
    here = ("-e", "from=control", "-e", f"folder={hub(folder / 'here')}")
    cache = folder / "n1/var/lib/neuron/huggingface/hub"
    assert run(rendered, "models", *here, "--check").count("changed") > 0
    assert not cache.exists()
    ended = run(rendered, "models", *here, as_typed=True)
    assert ended.returncode == 0, ended.output
    files = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}
    snapshot = f"models--lab--tiny/snapshots/{COMMIT}"
    assert files == {f"{snapshot}/config.json", f"{snapshot}/model.safetensors", "models--lab--tiny/refs/main"}
    assert run(rendered, "models", *here, "-e", "models=simple").returncode == 0
    again = run(rendered, "models", *here, "-e", "models=all")
    assert (again.returncode, again.count("changed")) == (0, 0), again.output
    assert not list(cache.rglob(".coming*"))


def test_models_that_are_not_there_are_told_before_any_is_brought(rendered: Path) -> None:
    """By host and model, from this machine and from a hub; names that nobody has, before any host is asked."""
    folder = rendered.parent
    (folder / "empty").mkdir()
    ended = run(rendered, "models", "-e", "from=control", "-e", f"folder={folder}/empty", "-e", "models=all")
    assert ended.returncode != 0
    assert "host n1: model tiny: source 'lab/tiny': " in words(ended)
    assert "host n1: model plain: source 'lab/plain@v2': " in words(ended)
    ended = run(rendered, "models")
    assert ended.returncode != 0
    assert "tiny: failed: source 'lab/tiny' cannot be fetched" in words(ended)
    ended = run(rendered, "models", "-e", "models=tiny,large")
    assert "models: no such model: large; there is: tiny, plain, simple" in words(ended)


def test_a_backup_is_for_oneself_and_has_no_secret_in_it(rendered: Path) -> None:
    """Unless it is asked for them: the token's file, and the environment as it is."""
    folder = rendered.parent
    (folder / "n1/run/neuron").mkdir(parents=True)
    (folder / "n1/run/neuron/drained").touch()
    kept = ("-e", f"folder={folder}/kept", "-e", "access_log=yes")
    ended = run(rendered, "backup", *kept, as_typed=True)
    assert ended.returncode == 0, ended.output
    [place] = (folder / "kept").iterdir()
    assert not [path for path in (place, *place.rglob("*")) if path.stat().st_mode & 0o077]
    text = {path.relative_to(place).as_posix(): path.read_text() for path in place.rglob("*") if path.is_file()}
    assert "canary" not in ended.output + "".join(text.values())
    root = f"n1{folder}/n1"
    settings, section, _ = (folder / "n1/etc/neuron/neuron.toml").read_text().partition("[neuron.environment]\n")
    left_out = "# HF_ENDPOINT is left out\n# SECRET is left out\n"
    assert text[f"{root}/etc/neuron/neuron.toml"] == settings + section + left_out
    assert "drained: true" in text["n1/host.yml"]
    assert "drained: false" in text["gw/host.yml"]
    assert "gw/access.jsonl" in text
    assert (folder / "n1/etc/neuron/models.toml").read_text() == text[f"{root}/etc/neuron/models.toml"]
    assert run(rendered, "backup", "-e", f"folder={folder}/whole", "-e", "secrets=yes").returncode == 0
    [token] = (folder / "whole").rglob("hub-token")
    assert token.read_text() == "canary-of-the-hub"
    assert "canary-of-the-environment" in (token.parent / "neuron.toml").read_text()


def test_uninstall_is_refused_until_it_is_meant(tmp_path: Path) -> None:
    """And says of which hosts it would remove what."""
    declared = inventory(tmp_path, {"gw": {}, "n1": {}, "n2": {}})
    ended = run(declared, "uninstall", "--limit", "gw,n1", "-e", "remove_cache=yes")
    assert ended.returncode != 0
    expected = "this would remove cortex from gw, n1: units, programs, configuration and users, and the cache of models"
    assert expected in words(ended)


def test_uninstall_leaves_the_cache_and_the_access_log_unless_asked(rendered: Path) -> None:
    """A second run changes nothing; the first with --check neither. site.yml makes all of it again."""
    folder = rendered.parent
    model = folder / "n1/var/lib/neuron/huggingface/hub/models--lab--tiny/refs/main"
    model.parent.mkdir(parents=True)
    model.touch()
    meant = ("-e", "uninstall=yes")
    assert run(rendered, "uninstall", *meant, "--check").count("changed") > 0
    assert (folder / "n1/etc/neuron/neuron.toml").exists()
    ended = run(rendered, "uninstall", *meant, as_typed=True)
    assert ended.returncode == 0, ended.output
    hosts = [path for name in ("gw", "n1") for path in (folder / name).rglob("*")]
    left = {path.relative_to(folder).as_posix() for path in hosts if path.is_file()}
    assert left == {"gw/var/log/access.jsonl", model.relative_to(folder).as_posix()}
    again = run(rendered, "uninstall", *meant)
    assert (again.returncode, again.count("changed")) == (0, 0), again.output
    assert run(rendered, "uninstall", *meant, "-e", "remove_cache=yes").returncode == 0
    assert not model.exists()
    assert not (folder / "gw/var/log/access.jsonl").exists()
    assert run_site(rendered).returncode == 0
    assert (folder / "n1/etc/neuron/neuron.toml").exists()
