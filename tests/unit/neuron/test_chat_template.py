"""Chat templates are rendered as transformers renders them."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from scripted_model import write_model

from cortex_contracts.wire.errors import InvalidParameter, TemplateRenderFailed
from cortex_dialects.generation import ChatPrompt, Sampling, TextPrompt, TokenPrompt
from cortex_neuron.protocol.frames import SamplingParams
from cortex_neuron.text import sampling, text_model
from cortex_neuron.text.template import ChatTemplate

HELLO = ({"role": "user", "content": "hi"},)


def _render(source: str, messages: tuple[dict[str, object], ...] = HELLO, **extra: object) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(messages, (), extra)


def test_a_template_sees_what_transformers_shows_it() -> None:
    """Special tokens, messages, tools, the request for a generation prompt, the time, the client's own variables."""
    assert _render("{{ bos_token }}{{ messages[0]['content'] }}{{ tools is none }}") == "<s>hiTrue"
    assert (
        _render("{% if add_generation_prompt %}go{% endif %}{{ enable_thinking }}", enable_thinking=False) == "goFalse"
    )
    assert _render("{{ strftime_now('%Y') }}") == str(datetime.now().year)


def test_json_in_a_template_is_not_escaped_for_html() -> None:
    """Models were trained on plain JSON."""
    assert _render("{{ {'a': '<é&>'} | tojson }}") == '{"a": "<é&>"}'
    assert _render("{{ {'a': 1} | tojson(indent=1) }}") == json.dumps({"a": 1}, indent=1)


def test_blocks_are_trimmed_and_loops_can_be_left() -> None:
    """White space around blocks is part of the training format."""
    source = "{% for m in messages %}\n  {% if loop.index > 1 %}\n    {% break %}\n  {% endif %}\nx\n{% endfor %}\n"
    assert _render(source, HELLO * 3) == "x\n"


def test_a_generation_block_is_only_its_content() -> None:
    """The tag marks training targets and means nothing here."""
    assert _render("a{% generation %}{{ messages[0].content }}{% endgeneration %}b") == "ahib"


@pytest.mark.parametrize(
    "source",
    ["{{ raise_exception('roles must alternate') }}", "{{ messages[5].content.x }}", "{{ ''.__class__.__mro__ }}"],
)
def test_a_template_that_fails_is_422(source: str) -> None:
    """Refused by its own words, by a mistake, or by the sandbox: never worked round (case W4)."""
    with pytest.raises(TemplateRenderFailed) as raised:
        _render(source)
    assert raised.value.status == 422


def test_a_template_cannot_change_the_messages() -> None:
    """The sandbox is the immutable one."""
    with pytest.raises(TemplateRenderFailed):
        _render("{{ messages.append(1) }}")


def test_a_chat_prompt_gets_no_second_beginning_of_sequence(tmp_path: Path) -> None:
    """Special tokens come from the template alone; a text prompt gets what the tokenizer adds."""
    model = text_model.of(text_model.read(write_model(tmp_path / "m")), 259)
    ids = model.encode(ChatPrompt(HELLO))
    assert ids.count(257) == 2  # the user's turn and the assistant's
    assert model.encode(TextPrompt("hi")) == tuple(b"hi")


def test_token_ids_outside_of_the_vocabulary_are_refused(tmp_path: Path) -> None:
    """They would index beyond the embedding."""
    model = text_model.of(text_model.read(write_model(tmp_path / "m")), 259)
    assert model.encode(TokenPrompt((1, 258))) == (1, 258)
    with pytest.raises(InvalidParameter, match="token 259 is outside of the vocabulary of 259"):
        model.encode(TokenPrompt((1, 259)))


def test_a_model_without_template_says_so(tmp_path: Path) -> None:
    """It can still complete text."""
    model = text_model.of(text_model.read(write_model(tmp_path / "m", template=None)), 259)
    with pytest.raises(TemplateRenderFailed, match="no chat template"):
        model.encode(ChatPrompt(HELLO))


def test_sampling_is_the_clients_then_the_models_then_ours() -> None:
    """Each parameter by itself (case W9)."""
    config = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "do_sample": True, "eos_token_id": 2}
    assert sampling.resolve(Sampling(), {}) == SamplingParams()
    assert sampling.resolve(Sampling(), config) == SamplingParams(temperature=0.6, top_p=0.9, top_k=20)
    asked = Sampling(temperature=0.0, top_k=-1, seed=7, logit_bias={3: 1.0})
    resolved = sampling.resolve(asked, config)
    assert resolved == SamplingParams(temperature=0.0, top_p=0.9, top_k=0, seed=7, logit_bias={3: 1.0})


def test_what_the_catalogue_says_of_sampling_is_above_the_models_file(tmp_path: Path) -> None:
    """An operator's word is nearer to the request than what came with the weights (case W9)."""
    folder = write_model(tmp_path / "m")
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9}')
    model = text_model.of(text_model.read(folder), 259)
    model.prefer({"temperature": 0.5, "top_p": 0.5})
    model.prefer({"temperature": 0.2})  # as a new catalogue does: it is the last word, and all of it
    resolved = sampling.resolve(Sampling(), model.generation_config)
    assert (resolved.temperature, resolved.top_p) == (0.2, 0.9)


def test_each_answer_of_a_seeded_request_has_its_own_seed() -> None:
    """With one seed for all of `n`, all would be the same answer."""
    params = SamplingParams(seed=7)
    assert [sampling.of_choice(params, k).seed for k in range(3)] == [7, 8, 9]
    assert sampling.of_choice(SamplingParams(), 1).seed is None
