"""What a model is for and how its vectors are made, read off its files before any process starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_vector_models import write_sentence_files

from cortex_contracts.wire.errors import UnsupportedArchitecture
from cortex_neuron.protocol.frames import Pooling
from cortex_neuron.residency import architecture_check
from cortex_neuron.residency.purpose import FilesInvalid, Purpose

ONE_LABEL = {"id2label": {"0": "LABEL_0"}}


def folder_of(path: Path, model_type: str, architecture: str, **config: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    content = {"model_type": model_type, "architectures": [architecture], **config}
    (path / "config.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("model_type", "architecture", "config", "task"),
    [
        ("llama", "LlamaForCausalLM", {}, "generate"),
        ("qwen3", "Qwen3Model", {}, "embed"),
        ("bert", "BertModel", {}, "embed"),
        ("bert", "BertForMaskedLM", {}, "embed"),
        ("nomic_bert", "NomicBertModel", {}, "embed"),
        ("xlm-roberta", "XLMRobertaForSequenceClassification", ONE_LABEL, "rerank"),
    ],
)
def test_the_task_is_found_in_the_files(
    tmp_path: Path, model_type: str, architecture: str, config: dict[str, Any], task: str
) -> None:
    """By the head of the architecture, and the kind of model."""
    assert architecture_check.check(folder_of(tmp_path / "m", model_type, architecture, **config)).task == task


def test_a_decoder_with_files_of_sentence_transformers_embeds(tmp_path: Path) -> None:
    """As Qwen3-Embedding is published: a causal model by its config, and modules.json beside it."""
    folder = folder_of(tmp_path / "m", "qwen3", "Qwen3ForCausalLM")
    write_sentence_files(folder, "lasttoken", prompts={"query": "Q: ", "document": ""})
    found = architecture_check.check(folder)
    assert found == Purpose("embed", Pooling(mode="last"), {"query": "Q: ", "document": ""})


def test_the_catalogue_stands_above_the_files(tmp_path: Path) -> None:
    """Both ways, where the architecture has what that takes."""
    plain = folder_of(tmp_path / "a", "llama", "LlamaForCausalLM")
    assert architecture_check.check(plain, asked="embed") == Purpose("embed", Pooling(mode="last"))
    embedder = folder_of(tmp_path / "b", "qwen3", "Qwen3ForCausalLM")
    write_sentence_files(embedder, "lasttoken")
    assert architecture_check.check(embedder, asked="generate").task == "generate"
    ranker = folder_of(tmp_path / "c", "bert", "BertForSequenceClassification", **ONE_LABEL)
    assert architecture_check.check(ranker, asked="embed").pooling == Pooling(mode="mean")


@pytest.mark.parametrize(
    ("model_type", "architecture", "config", "asked", "words"),
    [
        ("bert", "BertModel", {}, "generate", "'bert' is not supported by harness 'torch', expected one of"),
        ("bert", "BertModel", {}, "rerank", "'BertModel' is not supported with task rerank"),
        ("bert", "BertForSequenceClassification", {}, "auto", "it has 2 labels; a model to rerank has 1"),
        ("bert", "BertForSequenceClassification", {"id2label": {"0": "a", "1": "b", "2": "c"}}, "auto", "3 labels"),
        ("qwen3", "Qwen3ForSequenceClassification", ONE_LABEL, "auto", "'qwen3' is not supported .* with task rerank"),
        ("t5", "T5Model", {}, "auto", "'t5' is not supported .* with task embed, expected one of"),
    ],
)
def test_what_a_task_does_not_have_is_named(
    tmp_path: Path, model_type: str, architecture: str, config: dict[str, Any], asked: Any, words: str
) -> None:
    """With what there is instead (case T11)."""
    with pytest.raises(UnsupportedArchitecture, match=words):
        architecture_check.check(folder_of(tmp_path / "m", model_type, architecture, **config), asked=asked)


def test_what_embeds_is_not_divided(tmp_path: Path) -> None:
    """It is said before any process starts."""
    with pytest.raises(UnsupportedArchitecture, match="task embed is not divided: it takes 1 device, not 2"):
        architecture_check.check(folder_of(tmp_path / "m", "bert", "BertModel"), 2)


@pytest.mark.parametrize(("flag", "mode"), [("cls_token", "cls"), ("mean_tokens", "mean"), ("lasttoken", "last")])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_is_as_the_files_say(tmp_path: Path, flag: str, mode: Any, normalize: bool) -> None:
    """The older files with a flag for each way, and whether a module brings vectors to length 1."""
    folder = folder_of(tmp_path / "m", "bert", "BertModel")
    write_sentence_files(folder, flag, normalize=normalize, limit=128, lowers=normalize)
    found = architecture_check.check(folder)
    assert found.pooling == Pooling(mode=mode, normalize=normalize, limit=128)
    assert found.lowers == normalize


@pytest.mark.parametrize("word", ["cls", "mean", "lasttoken"])
def test_pooling_may_be_one_word(tmp_path: Path, word: str) -> None:
    """As newer files have it."""
    folder = folder_of(tmp_path / "m", "bert", "BertModel")
    write_sentence_files(folder, "none", pooling={"pooling_mode": word})
    found = architecture_check.check(folder).pooling
    assert found is not None
    assert word.startswith(found.mode)


@pytest.mark.parametrize(
    ("mode", "more", "words"),
    [
        ("max_tokens", {}, "pooling max_tokens is not supported"),
        ("mean_tokens", {"pooling": {"pooling_mode_cls_token": True}}, "pooling .* and .* is not supported"),
        ("none", {}, "pooling none is not supported"),
        ("mean_tokens", {"pooling": {"include_prompt": False}}, "include_prompt false is not supported"),
        ("mean_tokens", {"kinds": ["Dense"]}, "module Dense is not supported"),
    ],
)
def test_what_would_be_another_vector_is_refused(tmp_path: Path, mode: str, more: dict[str, Any], words: str) -> None:
    """Rather than computed as if the files had not said it."""
    folder = folder_of(tmp_path / "m", "bert", "BertModel")
    write_sentence_files(folder, mode, **more)
    with pytest.raises(UnsupportedArchitecture, match=words):
        architecture_check.check(folder)


@pytest.mark.parametrize(
    ("config", "may_be_cut", "cuts"),
    [
        ({}, False, None),
        ({"is_matryoshka": True}, True, None),
        ({"is_matryoshka": False}, False, None),
        ({"matryoshka_dimensions": [256, 128]}, True, frozenset({128, 256})),
    ],
)
def test_that_vectors_may_be_cut_stands_in_the_config(
    tmp_path: Path, config: dict[str, Any], may_be_cut: bool, cuts: frozenset[int] | None
) -> None:
    """Under the names by which vLLM knows it."""
    found = architecture_check.check(folder_of(tmp_path / "m", "bert", "BertModel", **config))
    assert (found.may_be_cut, found.cuts) == (may_be_cut, cuts)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("modules.json", "{"),
        ("modules.json", "{}"),
        ("modules.json", '["Transformer"]'),
        ("modules.json", '[{"idx": 0}]'),
        ("config_sentence_transformers.json", '["query"]'),
        ("sentence_bert_config.json", "[]"),
    ],
)
def test_files_that_are_none_are_an_error_that_names_them(tmp_path: Path, name: str, text: str) -> None:
    """And no trace of a stack."""
    folder = folder_of(tmp_path / "m", "bert", "BertModel")
    (folder / name).write_text(text)
    with pytest.raises(FilesInvalid, match=name):
        architecture_check.check(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config_sentence_transformers.json", '{"prompts": ["query"]}'),
        ("sentence_bert_config.json", '{"max_seq_length": "many"}'),
    ],
)
def test_values_that_are_none_are_an_error_that_names_the_folder(tmp_path: Path, name: str, text: str) -> None:
    """The same where the file can be read."""
    folder = folder_of(tmp_path / "m", "bert", "BertModel")
    (folder / name).write_text(text)
    with pytest.raises(FilesInvalid, match="another file beside them is not as it should be"):
        architecture_check.check(folder)
