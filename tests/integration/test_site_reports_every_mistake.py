"""An inventory with every kind of mistake that operators make: all are told at once, and nothing is done."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from site_playbook import BIN, ROOT, Run, run_site

FILES = {
    "hosts.yml": """\
gateway:
  hosts:
    entrance: {ansible_host: 192.0.2.10}
    door: {ansible_host: 192.0.2.10, gateway_listen: "0.0.0.0:8000", gateway_metrics_listen: "127.0.0.1:8000"}
    gate: {ansible_host: 192.0.2.10, gateway_listen: "192.0.2.10:8000", gateway_metrics_listen: "0.0.0.0:31314"}
neurons:
  hosts:
    desk: {ansible_host: 192.0.2.21}
    tower: {ansible_host: 192.0.2.22}
    rack: {ansible_host: 192.0.2.22}
    spare: {}
neurns:
  hosts:
    attic: {ansible_host: 192.0.2.25, neuron_devices: [0]}
printers:
  hosts:
    laser: {ansible_host: 192.0.2.99}
""",
    "group_vars/all.yml": """\
ansible_connection: local
cortex_prefix: PREFIX
cortex_service_manager: none
cortex_servce_user: gpu
cortex_firewall: nftable
cortex_keep_releases: 1
cortex_operators: 192.0.2.0/24
cortex_models:
  - {id: qwen3-8b, source: Qwen/Qwen3-8B, vram_mb: lots, preload_on: [towr], pinned_on: [rak], temprature: 1}
  - {id: qwen3-8b, source: Qwen/Qwen3-8B, vram_mb: 8000}
  - {id: llama, source: meta/llama, vram_mb: 8000, aliases: [chat, qwen3-8b], tensor_parallel: 4, preload_on: [tower]}
  - {id: gemma, source: google/gemma, vram_mb: -5, aliases: [chat], sampling: {temprature: 0.5, top_p: warm}}
  - {id: a name, source: "", vram_mb: 1, harness: torhc, capabilities: [chatt], preload_on: rack}
  - {source: org/nameless, vram_mb: 1, aliases: /srv/models}
  - just-a-name
  - {id: mini, source: 5, vram_mb: 1.5, priority: high, min_devices: 0, context: yes, sampling: hot}
""",
    "group_vars/gateway/gateway.yml": """\
gateway_idle_timeout_s: -1
gateway_eviction_strategy: lur
gateway_workers: many
gateway_otlp_endpoint: localhost:4318
gateway_access_log: access.jsonl
gateway_anonymous_allowance: {models: [chta], tokens_per_minute: many}
gateway_api_keys:
  - {name: alice, key: "{{ vault_alice }}"}
  - {name: alice, key: not-a-secret-0123456789, models: [qwen3-b8]}
  - {name: bob, key: not-a-secret-0123456789}
  - {name: carol, key: "sha256:12ab"}
  - {name: dave, key: short, priorty: high}
""",
    "host_vars/entrance.yml": "gateway_listen: 0.0.0.0\ngateway_metrics_listen: 0.0.0.0:99999\n",
    "host_vars/desk.yml": "neuron_port: 70000\nneuron_devices: gpu\nneuron_prot: 1\nneuron_drained: sometimes\n",
    "host_vars/tower.yml": "neuron_devices: [0, 0]\nneuron_environment: [A=b]\nneuron_bind: '{{ lab_address }}'\n",
    "host_vars/spare.yml": "cortex_models: []\nneuron_load_timeout_s: -5\nneuron_environment: {A: '{{ nowhere }}'}\n",
    "host_vars/rack.yml": "neuron_vllm_ray_address: \"{{ hostvars['desk'].ansible_host }}:6379\"\n",  # no mistake
    "host_vars/racc.yml": "neuron_devices: [0, 1]\n",
    "group_vars/neuron.yml": "neuron_queue_limit: 5\n",
    "group_vars/nobody.yml": "somebody_else_s: 5\n",
}
EVERYBODY = "hosts entrance, door, gate, desk and 3 more"
GATEWAYS = "hosts entrance, door, gate"
EXPECTED = [
    # names, and values by themselves
    f"{EVERYBODY}: cortex_servce_user: no such variable; did you mean cortex_service_manager?",
    f"{EVERYBODY}: cortex_firewall: should be 'auto', 'nftables', 'firewalld' or 'none', is 'nftable'; "
    "did you mean nftables?",
    f"{EVERYBODY}: cortex_keep_releases: should be greater than or equal to 2, is 1",
    f"{EVERYBODY}: cortex_operators: should be a list, is '192.0.2.0/24'",
    "host desk: neuron_prot: no such variable; did you mean neuron_port?",
    "host desk: neuron_port: should be less than or equal to 65535, is 70000",
    "host desk: neuron_devices: should be such as 'all' or 'cpu' or [0, 1], is 'gpu'",
    "host desk: neuron_drained: should be true or false, is 'sometimes'",
    "host tower: neuron_environment: should be names and values, is a list",
    "host tower: neuron_devices: names a device twice: [0, 0]",
    "host spare: neuron_load_timeout_s: should be greater than 0, is -5",
    "host entrance: gateway_listen: should be such as '0.0.0.0:31313' or '[::]:31313', is '0.0.0.0'",
    "host entrance: gateway_metrics_listen: port 99999 is not in 1 to 65535, is '0.0.0.0:99999'",
    f"{GATEWAYS}: gateway_idle_timeout_s: should be greater than 0, is -1",
    f"{GATEWAYS}: gateway_eviction_strategy: should be 'lru' or 'priority', is 'lur'; did you mean lru?",
    f"{GATEWAYS}: gateway_workers: should be a whole number, is 'many'",
    f"{GATEWAYS}: gateway_otlp_endpoint: should be such as '' or 'http://127.0.0.1:4318', is 'localhost:4318'",
    f"{GATEWAYS}: gateway_access_log: should be such as '' or '/var/log/cortex/access.jsonl', is 'access.jsonl'",
    # what cannot be templated or decrypted, also deep within a value
    f"{GATEWAYS}: gateway_admin_key: Error rendering template: Attempt to use undecryptable variable: Attempting to "
    "decrypt but no vault secrets found.",
    f"{GATEWAYS}: gateway_api_keys: entry 1: key: 'vault_alice' is undefined",
    "host tower: neuron_bind: 'lab_address' is undefined",
    "host spare: neuron_environment.A: 'nowhere' is undefined",
    # keys and what they allow
    f"{GATEWAYS}: gateway_api_keys: entry 4: key: after sha256: there should be 64 hexadecimal digits in lower case, "
    "is a str",
    f"{GATEWAYS}: gateway_api_keys: entry 5: key: should be 16 or more printable ASCII characters without blanks "
    "around them, is a str",
    f"{GATEWAYS}: gateway_api_keys: entry 5: priorty: no such key; did you mean priority?",
    f"{GATEWAYS}: gateway_api_keys: alice: name: is there twice",
    f"{GATEWAYS}: gateway_api_keys: bob: key: is also that of alice",
    f"{GATEWAYS}: gateway_api_keys: alice: models: 'qwen3-b8' is no model of cortex_models; did you mean qwen3-8b?",
    f"{GATEWAYS}: gateway_anonymous_allowance: tokens_per_minute: should be a whole number, is 'many'",
    f"{GATEWAYS}: gateway_anonymous_allowance: models: 'chta' is no model of cortex_models; did you mean chat?",
    # the catalogue
    "host spare: cortex_models: is not that of the other hosts; declare it once, in group_vars/all",
    "cortex_models: qwen3-8b: vram_mb: should be a whole number, is 'lots'",
    "cortex_models: qwen3-8b: temprature: no such key",
    "cortex_models: qwen3-8b: id: is there twice",
    "cortex_models: qwen3-8b: pinned_on: 'rak' is no host of the group neurons; did you mean rack?",
    "cortex_models: qwen3-8b: preload_on: 'towr' is no host of the group neurons; did you mean tower?",
    "cortex_models: llama: aliases: 'qwen3-8b' is the id of another model",
    "cortex_models: llama: tensor_parallel: is 4, but host tower has 2 in neuron_devices",
    "cortex_models: gemma: vram_mb: should be greater than 0, is -5",
    "cortex_models: gemma: aliases: 'chat' is also an alias of llama",
    "cortex_models: gemma: sampling.temprature: should be 'temperature', 'top_p', 'top_k', 'min_p' or "
    "'repetition_penalty', is 'temprature'; did you mean temperature?",
    "cortex_models: gemma: sampling.top_p: should be a number, is 'warm'",
    "cortex_models: a name: id: should be such as 'qwen3-8b' or 'Qwen/Qwen3-8B', is 'a name'",
    "cortex_models: a name: source: should not be empty, is ''",
    "cortex_models: a name: harness: should be 'torch' or 'vllm', is 'torhc'; did you mean torch?",
    "cortex_models: a name: capabilities.0: should be 'chat', 'completion', 'tools' or 'images', is 'chatt'; "
    "did you mean chat?",
    "cortex_models: a name: preload_on: should be a list, is 'rack'",
    "cortex_models: entry 6: id: is missing (Its name; what clients call it)",
    "cortex_models: entry 6: aliases: should be a list, is '/srv/models'",
    "cortex_models: entry 7: should be keys and values, is 'just-a-name'",
    "cortex_models: mini: source: should be text, is 5",
    "cortex_models: mini: vram_mb: should be a whole number, is 1.5",
    "cortex_models: mini: priority: should be a whole number, is 'high'",
    "cortex_models: mini: min_devices: should be greater than or equal to 1, is 0",
    "cortex_models: mini: context: should not be true or false, is True",
    "cortex_models: mini: sampling: should be names and values, is 'hot'",
    # hosts among each other
    "host door: gateway_metrics_listen: 127.0.0.1:8000 is also that of gateway_listen: 0.0.0.0:8000",
    "host gate: has the address of host door: 192.0.2.10, 192.0.2.10:8000 (ansible_host, gateway_listen)",
    "host rack: has the address of host tower: http://192.0.2.22:13131 (ansible_host, neuron_port)",
    "host attic: neuron_devices: is of no use to a host in none of the groups gateway, neurons, monitoring; "
    "did you mean neurons?",
    "file FOLDER/host_vars/racc.yml: is of no host of the inventory; did you mean rack?",
    "file FOLDER/group_vars/neuron.yml: is of no group of the inventory; did you mean neurons?",
]


@dataclass(frozen=True)
class Mistaken:
    """The inventory, the folder that its hosts would get, and what must be said of it."""

    folder: Path
    prefix: Path
    expected: list[str]


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Mistaken:
    """With a value that was vaulted with a password which nobody gives."""
    top = tmp_path_factory.mktemp("mistaken")
    folder, password = top / "inventory", top / "password"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace("PREFIX", str(top / "host")))
    password.write_text("correct horse\n")
    command = [BIN / "ansible-vault", "encrypt_string", "--vault-password-file", password]
    vaulted = subprocess.run(
        [*command, "not-a-secret-of-admins", "--name", "gateway_admin_key"],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    (folder / "group_vars/gateway/vault.yml").write_text(vaulted.stdout)
    return Mistaken(folder, top / "host", [line.replace("FOLDER", str(folder)) for line in EXPECTED])


@pytest.fixture(scope="module")
def refused(mistaken: Mistaken) -> Run:
    """One run of site.yml."""
    return run_site(mistaken.folder)


def test_the_check_tells_every_mistake_and_nothing_else(mistaken: Mistaken) -> None:
    """`cortex inventory check`: a line for each."""
    command = [BIN / "cortex", "inventory", "check", "-i", mistaken.folder]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    *lines, count = done.stdout.splitlines()
    assert sorted(lines) == sorted(mistaken.expected)
    assert len(lines) >= 25
    assert count.endswith(f"{len(EXPECTED)} problems")


def test_site_yml_tells_the_same_in_one_run(mistaken: Mistaken, refused: Run) -> None:
    """Each on a line of its own, unfolded, so that it can be searched for."""
    assert refused.returncode != 0
    said = {line.strip() for line in refused.output.splitlines()}
    assert [line for line in mistaken.expected if line not in said] == []
    assert "vllm_ray_address" not in refused.output


def test_nothing_is_touched_and_no_key_is_told(mistaken: Mistaken, refused: Run) -> None:
    """The check is the only task that ran."""
    assert refused.count("ok") == refused.count("changed") == 0
    assert refused.output.count("TASK [") == 1
    assert not mistaken.prefix.exists()
    assert "not-a-secret" not in refused.output
