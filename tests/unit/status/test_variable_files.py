"""Files of variables that belong to nobody are found by their names, and only those that declare something of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from cortex_status.variable_files import stray

HOSTS, GROUPS = ["beast", "benjy", "gpu1.lab.example"], ["all", "ungrouped", "gateway", "neurons"]


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("host_vars/baest.yml", "host of the inventory; did you mean beast?"),
        ("host_vars/baest.yaml", "host of the inventory; did you mean beast?"),
        ("host_vars/gpu2.lab.example", "host of the inventory; did you mean gpu1.lab.example?"),
        ("group_vars/neuron.json", "group of the inventory; did you mean neurons?"),
        ("group_vars/x", "group of the inventory"),
    ],
)
def test_a_file_of_no_host_or_group_is_told(tmp_path: Path, name: str, rest: str) -> None:
    """With the name that was perhaps meant."""
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text('{"neuron_port": 14000}')
    assert stray([tmp_path, tmp_path], HOSTS, GROUPS) == [f"file {tmp_path / name}: is of no {rest}"]


@pytest.mark.parametrize("text", ["---\nneuron_port: 1\n", "$ANSIBLE_VAULT;1.1;AES256\n3132\n", "{a: 1, cortex_x: 2}"])
def test_a_folder_is_told_for_what_is_in_it(tmp_path: Path, text: str) -> None:
    """Plain, or vaulted, which cannot be asked."""
    (tmp_path / "host_vars/baest").mkdir(parents=True)
    (tmp_path / "host_vars/baest/vars.yml").write_text(text)
    [line] = stray([tmp_path], HOSTS, GROUPS)
    assert line.startswith(f"file {tmp_path}/host_vars/baest: is of no host")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("host_vars/beast.yml", "neuron_port: 1\n"),
        ("host_vars/gpu1.lab.example.yml", "neuron_port: 1\n"),
        ("group_vars/all.yml", "cortex_models: []\n"),
        ("group_vars/printers.yml", "paper: a4 # not of neuron_port\n"),
        ("host_vars/beast.yml~", "neuron_port: 1\n"),
        ("host_vars/.baest.yml.swp", "neuron_port: 1\n"),
        ("other/baest.yml", "neuron_port: 1\n"),
    ],
)
def test_nothing_is_told_of_what_has_its_host_or_is_not_ours(tmp_path: Path, name: str, text: str) -> None:
    """An inventory may hold more than cortex, and hosts that come and go."""
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(text)
    assert stray([tmp_path], HOSTS, GROUPS) == []
