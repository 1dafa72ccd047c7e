"""cortex.toml, models.toml, neuron.toml: what is wrong is an error that names file, key and value (case L11)."""

from __future__ import annotations

import pytest

from cortex_contracts.inventory.files import (
    ConfigInvalid,
    Eviction,
    File,
    GatewayFile,
    KeysFile,
    ModelsFile,
    NeuronFile,
    parse,
)
from cortex_contracts.inventory.fleet import Gateway, GatewaySettings

PATH = "/etc/cortex/some.toml"
MODEL = '[[models]]\nid = "m"\nsource = "x"\nvram_mb = 1\n'


def problems(text: str, shape: type[File]) -> list[str]:
    with pytest.raises(ConfigInvalid) as invalid:
        parse(text, PATH, shape)
    assert str(invalid.value) == "\n".join(invalid.value.problems)
    return invalid.value.problems


def test_a_whole_gateway_file_is_read() -> None:
    """What the role renders comes back as values."""
    file = parse(
        '[gateway]\nlisten = "[::]:80"\nidle_timeout_s = 5\n[eviction]\nstrategy = "priority"\n'
        '[[neurons]]\nname = "rack1"\nurl = "http://10.0.0.11:13131"\n',
        PATH,
        GatewayFile,
    )
    assert (file.gateway.listen, file.gateway.idle_timeout_s) == ("[::]:80", 5.0)
    assert file.eviction.strategy == "priority"
    assert [neuron.url for neuron in file.neurons] == ["http://10.0.0.11:13131"]


def test_a_whole_neuron_file_is_read() -> None:
    """The host's name and its devices; the catalogue is another file's, and one left over from before is an error."""
    file = parse('[neuron]\nname = "rack1"\ndevices = [0, 2]\n', PATH, NeuronFile)
    assert (file.neuron.devices, file.neuron.drained) == ((0, 2), False)
    assert problems(f'[neuron]\nname = "rack1"\n{MODEL}', NeuronFile) == [f"{PATH}: models: it is a list: unknown key"]


def test_a_whole_catalogue_is_read() -> None:
    """The same file for gateways and neurons."""
    assert parse(f'{MODEL}aliases = ["a"]\n', PATH, ModelsFile).models[0].aliases == ("a",)


def test_an_empty_gateway_file_is_all_defaults_and_those_are_the_inventorys() -> None:
    """One schema: a default of the file that differs from the inventory's is a second truth."""
    file = parse("", PATH, GatewayFile)
    declared = Gateway()
    assert {name: getattr(declared, name) for name in GatewaySettings.model_fields} == file.gateway.model_dump()
    assert file.eviction.strategy == declared.eviction_strategy
    assert file.eviction.defrag_after_cycles == declared.defrag_after_cycles


def test_every_gateway_setting_of_the_inventory_is_in_the_file() -> None:
    """A setting that is declared and not rendered would be ignored silently."""
    eviction = {"eviction_strategy": "strategy", "defrag_after_cycles": "defrag_after_cycles"}
    keys = {"api_keys": "keys", "admin_key": "admin_sha256", "anonymous": "anonymous"}
    keys |= {"anonymous_allowance": "anonymous_allowance"}
    assert set(Gateway.model_fields) == set(GatewaySettings.model_fields) | set(eviction) | set(keys)
    assert set(Eviction.model_fields) == set(eviction.values())
    assert set(KeysFile.model_fields) == set(keys.values())


@pytest.mark.parametrize(
    ("shape", "text", "line"),
    [
        (GatewayFile, "[gateway]\nlissen = 5\n", "gateway.lissen: it is 5: unknown key"),
        (GatewayFile, "[gatway]\nlisten = 5\n", "gatway: it is a dict: unknown key"),
        (GatewayFile, "[eviction]\nstrategy = 'fifo'\n", "eviction.strategy: it is 'fifo': Input should be"),
        (GatewayFile, "[gateway]\nbody_limit_mb = -5\n", "gateway.body_limit_mb: it is -5: Input should be greater"),
        (GatewayFile, "[gateway]\npoll_interval_s = 0\n", "gateway.poll_interval_s: it is 0: Input should be greater"),
        (GatewayFile, "[gateway]\npoll_interval_s = 'often'\n", "gateway.poll_interval_s: it is 'often': "),
        (GatewayFile, "[gateway]\nlisten = '31313'\n", "gateway.listen: it is '31313': String should match"),
        (GatewayFile, "[gateway]\nlisten = 'a:99999'\n", "gateway.listen: it is 'a:99999': Value error, port 99999"),
        (GatewayFile, "[gateway]\nlisten = 31313\n", "gateway.listen: it is 31313: Input should be a valid string"),
        (GatewayFile, "gateway = 5\n", "gateway: it is 5: Input should be"),
        (GatewayFile, "[[neurons]]\nname = 'a'\n", "neurons.0.url: is missing"),
        (ModelsFile, f"{MODEL}vram = 1\n", "models.0.vram: it is 1: unknown key"),
        (ModelsFile, f"{MODEL}harness = 'tgi'\n", "models.0.harness: it is 'tgi': Input should be 'torch' or 'vllm'"),
        (ModelsFile, f"{MODEL}{MODEL}context = 'long'\n", "models.1.context: it is 'long': Input should be a valid"),
        (ModelsFile, f"{MODEL}aliases = 'a'\n", "models.0.aliases: it is 'a': Input should be a valid tuple"),
        (ModelsFile, "models = 3\n", "models: it is 3: Input should be a valid tuple"),
        (NeuronFile, "", "neuron: is missing"),
        (NeuronFile, "[neuron]\nport = 13131\n", "neuron.name: is missing"),
        (NeuronFile, "[neuron]\nname = 'a'\nport = 70000\n", "neuron.port: it is 70000: Input should be less"),
        (NeuronFile, "[neuron]\nname = 'a'\nmax_sequences = 1.5\n", "neuron.max_sequences: it is 1.5: Input should be"),
        (NeuronFile, "[neuron]\nname = 'a'\ndevices = 'gpu'\n", "neuron.devices: it is 'gpu': Input should be 'all'"),
        (NeuronFile, "[neuron]\nname = 'a'\ndevices = [-1]\n", "neuron.devices: it is [-1]: Input should be 'all'"),
    ],
)
def test_each_mistake_is_one_line_that_names_file_key_and_value(shape: type[File], text: str, line: str) -> None:
    """Nothing falls back to a default; a missing key has no value to name."""
    (found,) = problems(text, shape)
    assert found.startswith(f"{PATH}: {line}")


def test_several_problems_are_reported_at_once() -> None:
    """An operator mends a file in one go, not one error a run."""
    text = '[neuron]\nprot = 1\ndevices = []\nmax_sequences = "many"\n[[models]]\nid = "a b"\n[extra]\n'
    keys = {line.split(": ")[1] for line in problems(text, NeuronFile)}
    assert keys == {"neuron.prot", "neuron.devices", "neuron.max_sequences", "neuron.name", "models", "extra"}
    keys = {line.split(": ")[1] for line in problems('[[models]]\nid = "a b"\nharness = "tgi"\n[extra]\n', ModelsFile)}
    assert keys == {"models.0.id", "models.0.source", "models.0.harness", "models.0.vram_mb", "extra"}


@pytest.mark.parametrize("text", ["[neuron\n", "name = \n", "a = 1\na = 2\n", "[gateway]\nlisten = yes\n"])
def test_what_is_no_toml_is_named_with_its_line(text: str) -> None:
    """The place in the file is told, and the file."""
    (line,) = problems(text, GatewayFile)
    assert line.startswith(f"{PATH}: not TOML: ")
    assert "line" in line


@pytest.mark.parametrize(
    "text",
    [
        '[neuron]\n[neuron.environment]\nHF_TOKEN = "hf_secret"\n',  # the name is missing, beside the environment
        '[neuron]\nname = "a"\n[environment]\nHF_TOKEN = "hf_secret"\n',  # the table is in the wrong place
        '[neuron]\nname = "a"\n[neuron.environment]\nHF_TOKEN = ["hf_secret"]\n',
        '[neuron]\nname = "a"\nenvironment = "HF_TOKEN=hf_secret"\n',
        '[[neuron]]\nname = "a"\n[neuron.environment]\nHF_TOKEN = "hf_secret"\n',
    ],
)
def test_a_token_of_the_environment_is_never_in_an_error(text: str) -> None:
    """Start-up errors end in the journal, which more people read than the file (case D4)."""
    assert "hf_secret" not in "\n".join(problems(text, NeuronFile))
