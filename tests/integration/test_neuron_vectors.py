"""/v1/embeddings and /v1/rerank: real models in real engines, asked at their neuron and through a gateway."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gateway_process
import numpy as np
import openai
import pytest
import pytest_asyncio
from gateway_process import RunningGateway, model_entry
from neuron_process import CHAT, DEMO_MODEL, MESSAGES, REAL, ROOT, RunningNeuron, running_neuron, until
from tiny_model import write_tiny_model
from tiny_vector_models import TEXTS, expected, expected_scores, token_ids, write_sentence_files, write_vector_model

EMBEDDINGS, RERANK = "/v1/embeddings", "/v1/rerank"
QUERY = {"query": "the dog", "documents": TEXTS[:3]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An encoder, a decoder and a cross-encoder, as a hub has them, and a model that writes."""
    root = tmp_path_factory.mktemp("models")
    found = {
        "bert": write_vector_model(root / "bert", "bert", matryoshka_dimensions=[8, 16]),
        "qwen": write_vector_model(root / "qwen", "qwen3", "ForCausalLM", head_dim=8, num_key_value_heads=2),
        "ranker": write_vector_model(root / "ranker", "xlm-roberta", "ForSequenceClassification", num_labels=1),
        "lower": write_vector_model(root / "lower", "roberta"),
        "llama": write_tiny_model(root / "llama"),
    }
    write_sentence_files(found["bert"], "cls_token", limit=48, prompts={"query": "to be ", "document": ""})
    write_sentence_files(found["qwen"], "lasttoken", normalize=False)
    write_sentence_files(found["lower"], "mean_tokens", limit=64, lowers=True)
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def neuron(folders: dict[str, Path]) -> AsyncIterator[RunningNeuron]:
    """It has all of them loaded, without a word in the catalogue of what they are for."""
    models = [
        {"id": name, "source": str(folder), "vram_mb": 200, "preload_on": ["here"], "aliases": [f"org/{name}"]}
        for name, folder in folders.items()
    ]
    models[1]["matryoshka"] = True
    async with running_neuron(models, REAL, cpu_threads=1) as started:
        for name in folders:
            await started.until_status("loaded", name, timeout_s=120)
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gateway(
    neuron: RunningNeuron, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningGateway]:
    declared = [model_entry(name, aliases=[f"org/{name}"]) for name in folders]
    neurons: list[Any] = [neuron]
    async with gateway_process.running(tmp_path_factory.mktemp("gateway"), neurons, declared) as started:
        await started.health(lambda health: len(health["neurons"][0]["models"]) == len(folders))
        yield started


@pytest.fixture(params=["neuron", "gateway"])
def url(request: pytest.FixtureRequest, neuron: RunningNeuron, gateway: RunningGateway) -> str:
    return {"neuron": neuron.url, "gateway": gateway.url}[request.param]


async def post(neuron: RunningNeuron, url: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with neuron.http.post(url, json=body) as response:
        return response.status, await response.json()


async def embedded(neuron: RunningNeuron, url: str, model: str, given: Any, **more: Any) -> Any:
    """[inputs, size]"""
    status, answer = await post(neuron, url + EMBEDDINGS, {"model": model, "input": given, **more})
    assert status == 200, answer
    assert [each["index"] for each in answer["data"]] == list(range(len(answer["data"])))
    assert {each["object"] for each in answer["data"]} == {"embedding"}
    return np.array([each["embedding"] for each in answer["data"]])


async def test_texts_come_back_as_transformers_embeds_them(
    neuron: RunningNeuron, folders: dict[str, Path], url: str
) -> None:
    """By the pooling that the model's files say: an encoder's first token, a decoder's last; by id and alias."""
    found = await embedded(neuron, url, "bert", TEXTS)
    np.testing.assert_allclose(found, expected(folders["bert"], TEXTS, "cls"), atol=1e-5)
    found = await embedded(neuron, url, "org/qwen", TEXTS)
    np.testing.assert_allclose(found, expected(folders["qwen"], TEXTS, "last", normalize=False), atol=1e-5)


async def test_an_input_is_a_text_or_several_in_letters_or_tokens(
    neuron: RunningNeuron, folders: dict[str, Path], url: str
) -> None:
    """All four say the same; token ids are taken as they are."""
    (ids, _) = token_ids(folders["bert"], TEXTS[:2])
    one = await embedded(neuron, url, "bert", TEXTS[0])
    for given in ([TEXTS[0]], ids, [ids]):
        np.testing.assert_allclose(await embedded(neuron, url, "bert", given), one, atol=1e-6)
    assert one.shape == (1, 32)
    many = await embedded(neuron, url, "bert", [f"{TEXTS[i % 5]} {'fox ' * (i % 7)}" for i in range(300)])
    assert many.shape == (300, 32)


async def test_usage_and_the_name_are_told(neuron: RunningNeuron, folders: dict[str, Path], url: str) -> None:
    """Tokens as they were computed, padding not counted."""
    _, answer = await post(neuron, url + EMBEDDINGS, {"model": "org/bert", "input": TEXTS, "user": "me"})
    tokens = sum(map(len, token_ids(folders["bert"], TEXTS)))
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert (answer["object"], answer["model"]) == ("list", "org/bert")


async def test_base64_is_the_same_numbers(neuron: RunningNeuron, url: str) -> None:
    """Little-endian float32."""
    numbers = await embedded(neuron, url, "bert", TEXTS)
    body = {"model": "bert", "input": TEXTS, "encoding_format": "base64"}
    _, answer = await post(neuron, url + EMBEDDINGS, body)
    told = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in answer["data"]]
    np.testing.assert_array_equal(np.array(told), numbers.astype("<f4"))


async def test_openais_sdk_reads_them(neuron: RunningNeuron, folders: dict[str, Path], url: str) -> None:
    """It asks for base64 by itself where nobody says otherwise."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk:
        plain = await sdk.embeddings.create(model="bert", input=TEXTS)
        cut = await sdk.embeddings.create(model="bert", input=TEXTS[0], dimensions=8, encoding_format="float")
    np.testing.assert_allclose(
        [each.embedding for each in plain.data], expected(folders["bert"], TEXTS, "cls"), atol=1e-5
    )
    np.testing.assert_allclose([cut.data[0].embedding], expected(folders["bert"], TEXTS[:1], "cls", cut=8), atol=1e-5)


async def test_vectors_are_cut_where_the_model_was_trained_for_it(
    neuron: RunningNeuron, folders: dict[str, Path], url: str
) -> None:
    """To what its config.json lists; or to anything, where only the catalogue says so. The whole size always passes."""
    found = await embedded(neuron, url, "qwen", TEXTS, dimensions=5)
    np.testing.assert_allclose(found, expected(folders["qwen"], TEXTS, "last", cut=5), atol=1e-5)
    assert (await embedded(neuron, url, "bert", "a", dimensions=32)).shape == (1, 32)


async def test_a_prompt_of_the_model_stands_before_the_text(neuron: RunningNeuron, url: str) -> None:
    """One of config_sentence_transformers.json, and only where it is asked for."""
    asked = await embedded(neuron, url, "bert", "the dog", prompt_name="query")
    np.testing.assert_allclose(asked, await embedded(neuron, url, "bert", "to be the dog"), atol=1e-6)
    assert not np.allclose(asked, await embedded(neuron, url, "bert", "the dog"), atol=1e-2)


async def test_texts_are_lowered_where_the_files_say_so(
    neuron: RunningNeuron, folders: dict[str, Path], url: str
) -> None:
    """Of a model whose tokenizer would not do it."""
    found = await embedded(neuron, url, "lower", ["The DOG", "the dog"])
    np.testing.assert_allclose(found, expected(folders["lower"], ["the dog"] * 2, "mean"), atol=1e-5)


@pytest.mark.parametrize(
    ("body", "code", "param", "words"),
    [
        ({}, "invalid_parameter", "input", "required"),
        ({"input": []}, "invalid_parameter", "input", ""),
        ({"input": [""] * 2049}, "invalid_parameter", "input", "2048"),
        ({"input": {"text": "a"}}, "invalid_parameter", "input", "a list of lists of token ids"),
        ({"input": [[2, 5], []]}, "invalid_parameter", "input[1]", ""),
        ({"input": [2, 99999]}, "invalid_parameter", "input", "outside of the vocabulary"),
        ({"input": ["a", "fox " * 60]}, "context_length_exceeded", "input[1]", "62 tokens; this model takes up to 48"),
        ({"input": "a", "dimensions": 9}, "invalid_parameter", "dimensions", "one of [8, 16, 32]"),
        ({"input": "a", "dimensions": 0}, "invalid_parameter", "dimensions", ""),
        ({"input": "a", "encoding_format": "int8"}, "invalid_parameter", "encoding_format", "base64"),
        ({"input": "a", "prompt_name": "s"}, "invalid_parameter", "prompt_name", "['document', 'query']"),
        ({"input": [2, 3], "prompt_name": "query"}, "invalid_parameter", "prompt_name", "token ids"),
        ({"input": "a", "truncate_prompt_tokens": 5}, "unsupported_parameter", "truncate_prompt_tokens", ""),
        ({"input": "a", "stream": True}, "unsupported_parameter", "stream", ""),
    ],
)
async def test_what_cannot_be_embedded_says_why(
    neuron: RunningNeuron, url: str, body: dict[str, Any], code: str, param: str, words: str
) -> None:
    """With the figures (cases W9, L10); nothing is ever cut without a word."""
    status, answer = await post(neuron, url + EMBEDDINGS, {"model": "bert", **body})
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, code, param)
    assert words in answer["error"]["message"]


async def test_documents_are_ranked_as_transformers_scores_them(
    neuron: RunningNeuron, folders: dict[str, Path], url: str
) -> None:
    """The best first; as text or with fields."""
    scores = expected_scores(folders["ranker"], "the dog", TEXTS)
    given = [text if i % 2 else {"text": text, "title": "x"} for i, text in enumerate(TEXTS)]
    status, answer = await post(
        neuron, url + RERANK, {"model": "ranker", "query": "the dog", "documents": given, "return_documents": True}
    )
    assert status == 200, answer
    results = answer["results"]
    assert [each["index"] for each in results] == sorted(range(5), key=lambda index: -scores[index])
    np.testing.assert_allclose(
        [each["relevance_score"] for each in results], [scores[each["index"]] for each in results], atol=1e-5
    )
    assert [each["document"]["text"] for each in results] == [TEXTS[each["index"]] for each in results]
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 50
    assert answer["model"] == "ranker"


async def test_as_many_are_told_as_were_asked_for(neuron: RunningNeuron, url: str) -> None:
    """top_n; without the documents where nobody wants them."""
    body = {"model": "ranker", "query": "the dog", "documents": TEXTS}
    _, all_of_them = await post(neuron, url + RERANK, body)
    _, best = await post(neuron, url + RERANK, {**body, "top_n": 2})
    assert best["results"] == all_of_them["results"][:2]
    assert "document" not in best["results"][0]
    assert len((await post(neuron, url + RERANK, {**body, "top_n": 99}))[1]["results"]) == 5


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"documents": ["a"]}, "invalid_parameter", "query"),
        ({"query": "a"}, "invalid_parameter", "documents"),
        ({"query": "a", "documents": []}, "invalid_parameter", "documents"),
        ({"query": "a", "documents": ["a", 5]}, "invalid_parameter", "documents[1]"),
        ({"query": "a", "documents": [{"title": "a"}]}, "invalid_parameter", "documents[0].text"),
        ({"query": "a", "documents": ["a", "fox " * 60]}, "context_length_exceeded", "documents[1]"),
        ({"query": "a", "documents": ["a"], "top_n": 0}, "invalid_parameter", "top_n"),
        ({"query": "a", "documents": ["a"], "max_chunks_per_doc": 3}, "unsupported_parameter", "max_chunks_per_doc"),
    ],
)
async def test_what_cannot_be_ranked_says_why(
    neuron: RunningNeuron, url: str, body: dict[str, Any], code: str, param: str
) -> None:
    """In the same words."""
    status, answer = await post(neuron, url + RERANK, {"model": "ranker", **body})
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, code, param)


@pytest.mark.parametrize(
    ("path", "model", "words"),
    [
        (CHAT, "bert", "bert is a model to embed, which /v1/embeddings asks for"),
        ("/v1/completions", "qwen", "qwen is a model to embed"),
        (CHAT, "ranker", "ranker is a model to rerank, which /v1/rerank asks for"),
        (EMBEDDINGS, "llama", "llama is a model to generate"),
        (EMBEDDINGS, "ranker", "ranker is a model to rerank"),
        (RERANK, "bert", "bert is a model to embed"),
        (RERANK, "llama", "llama is a model to generate"),
    ],
)
async def test_a_model_does_only_what_it_is_for(
    neuron: RunningNeuron, url: str, path: str, model: str, words: str
) -> None:
    """Everything else is a 400 that says where it would be asked for."""
    bodies = {CHAT: {"messages": [{"role": "user", "content": "a"}]}, EMBEDDINGS: {"input": "a"}, RERANK: QUERY}
    status, answer = await post(neuron, url + path, {"model": model, **bodies.get(path, {"prompt": "a"})})
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "invalid_parameter", "model")
    assert words in answer["error"]["message"]
    status, answer = await post(neuron, url + MESSAGES, {"model": "bert", "max_tokens": 5, **bodies[CHAT]})
    assert (status, answer["type"]) == (400, "error")


async def test_what_each_is_for_is_told(neuron: RunningNeuron, gateway: RunningGateway) -> None:
    """By the neuron's rows and the gateway's catalogue; and that there is no cache."""
    tasks = {"bert": "embed", "qwen": "embed", "ranker": "rerank", "lower": "embed", "llama": "generate"}
    assert {row["id"]: row["task"] for row in await neuron.get("/models")} == tasks
    assert {row["id"]: row["task"] for row in (await gateway.get("/v1/models"))["data"]} == tasks
    able = {row["id"]: row["capabilities"] for row in (await gateway.get("/v1/models"))["data"]}
    assert (able["bert"], able["ranker"], able["llama"]) == (["embeddings"], ["rerank"], ["chat", "completion"])
    assert (await neuron.row("bert"))["context"] == 48
    assert (await neuron.row("ranker"))["context"] == 64
    assert (await neuron.health("bert"))["kv_blocks_total"] == 0
    assert 0 < (await neuron.row("bert"))["vram_used_mb"] < 20


async def test_they_are_verified_like_any_other(neuron: RunningNeuron) -> None:
    """What a deploy asks."""
    said = {name: (await neuron.post("/models/verify", {"model_id": name})).json for name in ("bert", "ranker")}
    assert said["bert"]["text"] == "a vector of 32 numbers"
    assert said["ranker"]["text"] == "a score"


async def test_a_request_is_logged_and_counted_on_both_sides(neuron: RunningNeuron, gateway: RunningGateway) -> None:
    """One line each, with the tokens (cases S12, M1); one seat for all its texts, which is free again."""
    before, total = await neuron.metrics(), await gateway.metrics()
    async with gateway.http.post(
        gateway.url + EMBEDDINGS, json={"model": "bert", "input": TEXTS}, headers={"x-request-id": "req_vectors"}
    ) as response:
        tokens = (await response.json())["usage"]["prompt_tokens"]
        assert "x-cortex-usage" not in response.headers
    line, passed = await neuron.line_of("req_vectors"), await gateway.line_of("req_vectors")
    for each in (line, passed):
        assert (each["model"], each["status"], each["prompt_tokens"]) == ("bert", 200, tokens)
    assert line["prefill_ms"] > 0
    name = 'neuron_tokens_total{kind="prompt",model="bert"}'
    assert (await neuron.metrics())[name] - before.get(name, 0) == tokens
    after = await gateway.metrics()
    names = [
        each for each in after if each.startswith("cortex_requests_total{") and '"bert"' in each and '"ok"' in each
    ]
    assert sum(after[name] - total.get(name, 0) for name in names) == 1
    await neuron.until_idle("bert")


async def test_a_client_that_leaves_takes_its_texts_along(neuron: RunningNeuron) -> None:
    """What has not been computed is not (cases S8, L9)."""
    body = {"model": "qwen", "input": ["the fox " * 25] * 2048}
    asked = asyncio.create_task(neuron.post(EMBEDDINGS, body))
    await until(lambda: _in_flight(neuron, 1))
    asked.cancel()
    await until(lambda: _in_flight(neuron, 0), timeout_s=5)
    assert (await embedded(neuron, neuron.url, "qwen", "a")).shape == (1, 32)
    assert (await neuron.health("qwen"))["queue_depth"] == 0


async def _in_flight(neuron: RunningNeuron, number: int) -> bool:
    return bool((await neuron.health("qwen"))["in_flight"] == number)


async def test_an_engine_that_dies_comes_back(neuron: RunningNeuron) -> None:
    """As any model's does; who waits is told."""
    asked = asyncio.create_task(neuron.post(EMBEDDINGS, {"model": "qwen", "input": ["the fox " * 25] * 2048}))
    await until(lambda: _in_flight(neuron, 1))
    by_model = {line["model"]: line["pids"] for line in neuron.logged("model_loaded")}
    for engine in neuron.engines():
        if engine.pid in by_model["qwen"]:
            engine.kill()
    assert (await asked).json["error"]["code"] == "group_died"
    await neuron.until_status("loaded", "qwen", timeout_s=60)
    assert (await embedded(neuron, neuron.url, "qwen", "a")).shape == (1, 32)


async def test_the_gateway_role_tries_each_model_by_what_it_is_for(gateway: RunningGateway, tmp_path: Path) -> None:
    """What site.yml does with every model that is preloaded."""
    role = ROOT / "roles/gateway"
    given = {
        "ansible_python_interpreter": sys.executable,
        "gateway_listen": gateway.url.removeprefix("http://"),
        "gateway_admin_key": None,
        "gateway_anonymous": "auto",
        "gateway_api_keys": [],
        "gateway_cold_load_timeout_s": 30,
        "cortex_models": [model_entry(name, preload_on=["here"]) for name in ("bert", "qwen", "ranker", "llama")],
    }
    tasks = [{"ansible.builtin.include_tasks": f"{role}/tasks/verify.yml"}]
    play = {"hosts": "localhost", "gather_facts": False, "vars_files": [f"{role}/vars/main.yml"], "tasks": tasks}
    (tmp_path / "play.yml").write_text(json.dumps([{**play, "vars": given}]))
    before = await gateway.metrics()
    playbook = Path(sys.executable).parent / "ansible-playbook"
    process = await asyncio.create_subprocess_exec(
        *(str(playbook), "-i", "localhost,", "-c", "local", str(tmp_path / "play.yml")),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    after = await gateway.metrics()
    answered = [each for each in after if each.startswith("cortex_requests_total{") and '"ok"' in each]
    assert sum(after[name] - before.get(name, 0) for name in answered) == 4
    assert (
        sum(after[name] for name in after if name.startswith("cortex_requests_total{"))
        - sum(before[name] for name in before if name.startswith("cortex_requests_total{"))
        == 4
    )


async def test_a_model_that_writes_embeds_where_the_catalogue_says_so() -> None:
    """The demo model, from its GGUF file: like texts are more alike than others. Without room it says what it needs."""
    models = [
        {"id": "smol", "source": str(DEMO_MODEL), "vram_mb": 1200, "context": 512, "task": "embed"},
        {"id": "tight", "source": str(DEMO_MODEL), "vram_mb": 520, "context": 8192, "task": "embed"},
    ]
    texts = ["A cat sat on the mat.", "A kitten sat on the rug.", "Interest rates rose by a quarter point in June."]
    async with running_neuron(models, REAL, cpu_threads=1) as neuron:
        assert (await neuron.row("smol"))["task"] == "embed"
        for name in ("smol", "tight"):
            assert (await neuron.post("/models/load", {"model_id": name})).status == 200
        await neuron.until_status("loaded", "smol", timeout_s=120)
        cat, kitten, rates = await embedded(neuron, neuron.url, "smol", texts)
        assert cat @ kitten > cat @ rates
        assert (await neuron.row("smol"))["context"] == 512
        await neuron.until_status("failed", "tight", timeout_s=120)
        assert "vram_mb is too little" in (await neuron.row("tight"))["failure"]["message"]


async def test_a_model_that_is_not_loaded_is_loaded_for_who_asks(
    neuron: RunningNeuron, gateway: RunningGateway, folders: dict[str, Path]
) -> None:
    """The gateway waits for it as for any other; what it is for is told meanwhile only where the catalogue says it."""
    assert (await neuron.post("/models/unload", {"model_id": "lower"})).status == 200
    assert (await neuron.row("lower"))["task"] is None

    async def is_known() -> bool:
        return bool((await gateway.get("/v1/models/lower"))["status"] == "unloaded")

    await until(is_known)
    found = await embedded(neuron, gateway.url, "lower", TEXTS)
    np.testing.assert_allclose(found, expected(folders["lower"], TEXTS, "mean"), atol=1e-5)
    assert (await neuron.row("lower"))["task"] == "embed"


async def test_a_model_that_embeds_sleeps_and_its_vectors_are_the_same_afterwards(folders: dict[str, Path]) -> None:
    """It has no cache to give back, and the same states."""
    models = [{"id": "bert", "source": str(folders["bert"]), "vram_mb": 200, "preload_on": ["here"]}]
    async with running_neuron(models, REAL, cpu_threads=1, sleep_host_memory_mb=100) as neuron:
        await neuron.until_status("loaded", "bert", timeout_s=120)
        asked = {"model": "bert", "input": TEXTS[:2]}
        before = (await neuron.post(EMBEDDINGS, asked)).json["data"]
        slept = await neuron.post("/models/unload", {"model_id": "bert", "level": "sleep"})
        assert slept.json["status"] == "sleeping"
        await neuron.post("/models/load", {"model_id": "bert"})
        await neuron.until_status("loaded", "bert")
        assert (await neuron.post(EMBEDDINGS, asked)).json["data"] == before
