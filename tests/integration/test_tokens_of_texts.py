"""/tokenize, /detokenize and /v1/models/{id}: at a neuron, and at a gateway, which passes them on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import gateway_process
import pytest
import pytest_asyncio
from gateway_process import model_entry
from neuron_process import CHAT, RunningNeuron
from openai import AsyncOpenAI

HI = {"role": "user", "content": "hé"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def urls(scripted: RunningNeuron, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """Where to ask."""
    declared = [model_entry("echo", aliases=["org/echo"])]
    neurons: list[Any] = [scripted]
    async with gateway_process.running(tmp_path_factory.mktemp("gateway"), neurons, declared) as gateway:
        await gateway.health(lambda health: bool(health["neurons"][0]["models"] == ["echo"]))
        yield {"neuron": scripted.url, "gateway": gateway.url}


@pytest.fixture(params=["neuron", "gateway"])
def url(request: pytest.FixtureRequest, urls: dict[str, str]) -> str:
    return urls[request.param]


async def post(neuron: RunningNeuron, url: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with neuron.http.post(url, json={"model": "org/echo", **body}) as response:
        return response.status, await response.json()


async def test_a_text_comes_back_from_its_tokens(scripted: RunningNeuron, url: str) -> None:
    """By an alias; special tokens, too."""
    status, answer = await post(scripted, f"{url}/tokenize", {"prompt": "hé<|end|>"})
    assert (status, answer["tokens"]) == (200, [*"hé".encode(), 256])
    assert (answer["count"], answer["max_model_len"], "token_strs" in answer) == (4, 2048, False)
    assert (await post(scripted, f"{url}/detokenize", {"tokens": answer["tokens"]}))[1] == {"prompt": "hé<|end|>"}
    assert (await post(scripted, f"{url}/detokenize", {"tokens": []}))[1] == {"prompt": ""}


async def test_messages_have_the_tokens_that_a_chat_is_charged_for(scripted: RunningNeuron, url: str) -> None:
    """As the chat template puts them; without the beginning of the answer where that is not wanted."""
    _, whole = await post(scripted, f"{url}/tokenize", {"messages": [HI], "return_token_strs": True})
    _, asked = await post(scripted, f"{url}{CHAT}", {"messages": [HI], "max_tokens": 4})
    assert whole["count"] == len(whole["tokens"]) == len(whole["token_strs"]) == asked["usage"]["prompt_tokens"]
    assert whole["token_strs"][0] == "<|start|>"
    _, less = await post(scripted, f"{url}/tokenize", {"messages": [HI], "add_generation_prompt": False})
    assert whole["tokens"][: less["count"]] == less["tokens"]
    assert less["count"] < whole["count"]


async def test_a_responses_input_has_the_tokens_that_the_response_is_charged_for(
    scripted: RunningNeuron, url: str
) -> None:
    """As OpenAI's SDK asks it, before the response: instructions, items and all."""
    asked = {"instructions": "Be brief.", "input": [HI, {"role": "assistant", "content": "x"}, HI]}
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        counted = await client.responses.input_tokens.count(model="org/echo", **asked)  # type: ignore[arg-type]
    _, answer = await post(scripted, f"{url}/v1/responses", asked)
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == answer["usage"]["input_tokens"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/responses/input_tokens", {"input": "x", "truncation": "auto"}, "truncation"),
        ("/v1/responses/input_tokens", {"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ("/v1/responses/input_tokens", {"input": "x", "max_output_tokens": 5}, "max_output_tokens"),
        ("/v1/responses/input_tokens", {"input": [{"role": "user"}]}, "input[0].content"),
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": [HI]}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": "x", "return_tokens": True}, "return_tokens"),
        ("/detokenize", {"tokens": [259]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {}, "tokens"),
    ],
)
async def test_what_is_wrong_is_named(
    scripted: RunningNeuron, url: str, path: str, body: dict[str, Any], param: str
) -> None:
    """As on every route (case W9)."""
    status, answer = await post(scripted, url + path, body)
    assert (status, answer["error"]["param"]) == (400, param)


async def test_one_model_is_told_by_id_and_by_alias(scripted: RunningNeuron, url: str) -> None:
    """An alias may hold slashes, plain or not; nobody's name is 404."""
    for name in ("echo", "org/echo", "org%2Fecho"):
        async with scripted.http.get(f"{url}/v1/models/{name}") as response:
            assert (response.status, (await response.json())["id"]) == (200, "echo")
    async with scripted.http.get(f"{url}/v1/models/nobody") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "model_not_found")
