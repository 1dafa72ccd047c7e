"""The official SDKs work unchanged: the promise every client of cortex relies on."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import openai
import pytest
from fleet_of_one import FleetOfOne

HELLO = [{"role": "user", "content": "Say hello."}]
GREEDY = {"temperature": 0}  # not a parameter of the Anthropic SDK any more; the API takes it


@pytest.fixture
def oai(fleet: FleetOfOne) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=fleet.url + "/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(fleet: FleetOfOne) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=fleet.url, api_key="unused", max_retries=0) as client:
        yield client


def test_chat_completion(oai: openai.OpenAI) -> None:
    """A plain chat answer: English text, a finish reason, usage that adds up."""
    answer = oai.chat.completions.create(model="smollm2", messages=HELLO, temperature=0, max_completion_tokens=32)
    assert "hello" in answer.choices[0].message.content.lower()
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model == "smollm2"


def test_streamed_chat_is_the_plain_answer_in_pieces(oai: openai.OpenAI) -> None:
    """Greedy, streamed and not: the same text; the stream comes in many chunks and ends with usage (cases S5, S9)."""
    plain = oai.chat.completions.create(model="smollm2", messages=HELLO, temperature=0, max_tokens=32)
    stream = oai.chat.completions.create(
        model="smollm2",
        messages=HELLO,
        temperature=0,
        max_tokens=32,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert "".join(pieces) == plain.choices[0].message.content
    assert len(pieces) > 5
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage


def test_several_choices_logprobs_and_stop(oai: openai.OpenAI) -> None:
    """n, logprobs with alternatives, seed and stop do what OpenAI documents."""
    answer = oai.chat.completions.create(
        model="demo", messages=HELLO, n=3, seed=5, temperature=1.0, max_tokens=8, logprobs=True, top_logprobs=2
    )
    again = oai.chat.completions.create(model="demo", messages=HELLO, n=3, seed=5, temperature=1.0, max_tokens=8)
    texts = [choice.message.content for choice in answer.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) > 1
    for choice in answer.choices:
        assert [len(token.top_logprobs) for token in choice.logprobs.content] == [2] * len(choice.logprobs.content)
    stopped = oai.completions.create(model="smollm2", prompt="1, 2, 3, 4,", stop=" 7", temperature=0, max_tokens=30)
    assert "7" not in stopped.choices[0].text
    assert stopped.choices[0].finish_reason == "stop"


def test_completions(oai: openai.OpenAI) -> None:
    """The older surface, with several prompts, streamed and not."""
    answer = oai.completions.create(model="smollm2", prompt=["The sky is", "1, 2, 3,"], temperature=0, max_tokens=8)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert " 4" in answer.choices[1].text
    stream = oai.completions.create(model="smollm2", prompt="1, 2, 3,", temperature=0, max_tokens=8, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[1].text


def test_responses(oai: openai.OpenAI) -> None:
    """The newer surface: the same greedy words as the older, streamed by the SDK's own helper and not."""
    chat = oai.chat.completions.create(model="smollm2", messages=HELLO, temperature=0, max_tokens=32)
    plain = oai.responses.create(model="smollm2", input=HELLO, temperature=0, max_output_tokens=32)
    with oai.responses.stream(model="smollm2", input="Say hello.", temperature=0, max_output_tokens=32) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert plain.output_text == chat.choices[0].message.content == "".join(pieces) == final.output_text
    assert plain.status == final.status == "completed"
    assert plain.usage.input_tokens == chat.usage.prompt_tokens
    cut = oai.responses.create(model="smollm2", input="Say hello.", max_output_tokens=2)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_models(oai: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    """Both SDKs list the catalogue and find a model by id."""
    assert [model.id for model in oai.models.list()] == ["smollm2"]
    assert oai.models.retrieve("smollm2").id == "smollm2"
    assert [model.id for model in claude.models.list()] == ["smollm2"]
    with pytest.raises(anthropic.NotFoundError) as unknown:
        claude.models.retrieve("nobody")
    assert unknown.value.type == "not_found_error"


def test_an_alias_with_a_slash_works(oai: openai.OpenAI) -> None:
    """Model names may hold a slash (case W12); the answer names what was asked for."""
    answer = oai.chat.completions.create(model="org/smollm2", messages=HELLO, max_tokens=4)
    assert answer.model == "org/smollm2"


def test_a_base_url_with_a_trailing_slash_works(fleet: FleetOfOne) -> None:
    """A client that adds a slash too many is served (case W12)."""
    with openai.OpenAI(base_url=fleet.url + "/v1/", api_key="unused", max_retries=0) as client:
        assert client.chat.completions.create(model="smollm2", messages=HELLO, max_tokens=4).choices


def test_messages(claude: anthropic.Anthropic) -> None:
    """A plain Anthropic message with a system prompt and a stop reason that says why it ended."""
    message = claude.messages.create(
        model="smollm2", max_tokens=4, system="Be brief.", messages=HELLO, extra_body=GREEDY
    )
    assert message.content[0].text
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 4
    assert message._request_id
    counted = claude.messages.count_tokens(model="smollm2", system="Be brief.", messages=HELLO)
    assert counted.input_tokens == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


def test_streamed_messages(claude: anthropic.Anthropic) -> None:
    """The SDK's own stream helper rebuilds the message that the plain call gives."""
    plain = claude.messages.create(model="smollm2", max_tokens=32, messages=HELLO, extra_body=GREEDY)
    with claude.messages.stream(model="smollm2", max_tokens=32, messages=HELLO, extra_body=GREEDY) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == plain.content[0].text == final.content[0].text
    assert final.stop_reason == plain.stop_reason == "end_turn"
    assert final.usage.output_tokens == plain.usage.output_tokens
    assert len(pieces) > 5


def test_errors_are_the_sdks_own(oai: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    """Unknown model: NotFoundError; bad value: BadRequestError; both SDKs, streaming or not (case S10)."""
    with pytest.raises(openai.NotFoundError) as unknown:
        oai.chat.completions.create(model="nobody", messages=HELLO, stream=True)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        oai.chat.completions.create(model="smollm2", messages=HELLO, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        oai.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": "word " * 9000}], stream=True
        )
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="nobody", max_tokens=4, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError):
        claude.messages.create(model="smollm2", max_tokens=0, messages=HELLO)
