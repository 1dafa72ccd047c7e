"""Tokens to text: whole characters, stop strings, reasoning, and all of them in order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_model import byte_tokenizer
from tokenizers import Tokenizer, decoders, models

from cortex_dialects.events import Finished, ReasoningDelta, TextDelta
from cortex_neuron.protocol.frames import Output, TokenLogprobs
from cortex_neuron.text import reasoning
from cortex_neuron.text.choice import Choice
from cortex_neuron.text.detokenizer import Detokenizer
from cortex_neuron.text.reasoning import ReasoningSplit
from cortex_neuron.text.stop_strings import StopStrings
from cortex_neuron.text.text_model import TextModel

TOKENIZER = byte_tokenizer()
MODEL = TextModel(TOKENIZER, 259)
EOS = 256


@given(st.text())
def test_the_deltas_of_any_text_are_that_text(text: str) -> None:
    """A token is a byte here, so every character beyond ASCII is split (case S1)."""
    detokenizer = Detokenizer(TOKENIZER)
    deltas = [detokenizer.push(byte) for byte in text.encode()]
    assert "".join(deltas) + detokenizer.end() == text
    assert not any("\N{REPLACEMENT CHARACTER}" in delta for delta in deltas if "\N{REPLACEMENT CHARACTER}" not in text)


@given(st.binary(max_size=60))
def test_bytes_that_are_no_text_never_stop_the_rest(data: bytes) -> None:
    """A model may say anything; what comes is what decoding all of it would give, as far as it is text (case T5)."""
    detokenizer = Detokenizer(TOKENIZER)
    text = "".join(map(detokenizer.push, data)) + "".join(map(detokenizer.push, b" then ok")) + detokenizer.end()
    assert text.endswith(" then ok")


def test_an_answer_cut_within_a_character_ends_with_a_replacement() -> None:
    """Nothing is silently lost: the half character is shown as what it is, once, at the end."""
    detokenizer = Detokenizer(TOKENIZER)
    deltas = [detokenizer.push(byte) for byte in "a🤖".encode()[:-1]]
    assert "".join(deltas) == "a"
    assert set(detokenizer.end()) == {"\N{REPLACEMENT CHARACTER}"}


def test_a_continued_text_keeps_the_space_before_its_next_word() -> None:
    """SentencePiece's decoders drop it from a first word, which the first word of an answer is not."""
    tokenizer = Tokenizer(models.WordLevel({"▁is": 0, "▁Paris": 1, "▁now": 2}, unk_token="▁is"))
    tokenizer.decoder = decoders.Metaspace()
    continued = Detokenizer(tokenizer, (0,))
    assert [continued.push(1), continued.push(2)] == [" Paris", " now"]
    fresh = Detokenizer(tokenizer)
    assert [fresh.push(1), fresh.push(2)] == ["Paris", " now"]


@pytest.mark.parametrize("count", [1, 8, 9, 30])
def test_tokens_without_text_change_nothing_around_them(count: int) -> None:
    """As many special tokens as may come, as with ignore_eos: no space is lost, no character is torn (case S1)."""
    tokenizer = Tokenizer(models.WordLevel({"▁is": 0, "▁Paris": 1, "</s>": 2}, unk_token="▁is"))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["</s>"])
    words = Detokenizer(tokenizer)
    assert "".join(map(words.push, [0, *[2] * count, 1])) == "is Paris"
    letters = Detokenizer(TOKENIZER)
    assert "".join(map(letters.push, [97, *[EOS] * count, *"🤖".encode()])) == "a🤖"


def test_a_prompt_that_ends_within_a_character_is_not_repeated() -> None:
    """Token prompts may end anywhere."""
    detokenizer = Detokenizer(TOKENIZER, "a🤖".encode()[:-1])
    assert "a" not in "".join(map(detokenizer.push, b"bc"))


@given(st.text(alphabet="abc", max_size=30), st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string_however_it_is_cut(text: str, stops: list[str]) -> None:
    """A stop string may span any number of pieces; nothing of it is ever shown."""
    scanner = StopStrings(stops)
    shown = ""
    for letter in text:
        shown += scanner.push(letter)
        if scanner.found:
            break
    else:
        shown += scanner.end()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert shown == text
    else:
        first = text[: min(ends)]
        assert any(shown + stop == first for stop in stops if first.endswith(stop))


def test_text_that_only_begins_like_a_stop_string_is_shown_in_the_end() -> None:
    """What was held back is not lost."""
    scanner = StopStrings(["###"])
    assert scanner.push("a##") == "a"
    assert scanner.push("b") == "##b"
    assert scanner.push("#") == ""
    assert scanner.end() == "#"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_thinking_goes_out_as_reasoning_and_never_as_answer(size: int) -> None:
    """Whatever the pieces are, tags are shown nowhere (case S4)."""
    text = "<think>\nfirst <b> then</think>\n\nThe answer."
    split = ReasoningSplit(enabled=True, thinking=False)
    parts = [split.push(text[at : at + size]) for at in range(0, len(text), size)] + [split.end()]
    assert "".join(reasoning for reasoning, _ in parts) == "first <b> then"
    assert "".join(answer for _, answer in parts) == "The answer."


def test_a_template_that_opens_the_block_makes_the_answer_begin_inside_of_it() -> None:
    """Such models never say <think> themselves."""
    split = ReasoningSplit(enabled=True, thinking=True)
    assert split.push("\nhm</think>yes") == ("hm", "yes")


def test_an_answer_without_thinking_is_an_answer() -> None:
    """Also one that begins with a tag of another kind, or with white space."""
    split = ReasoningSplit(enabled=True, thinking=False)
    pieces = [split.push(piece) for piece in (" ", "<", "b>", "x")] + [split.end()]
    assert "".join(answer for _, answer in pieces) == " <b>x"
    assert ReasoningSplit(enabled=False, thinking=False).push("<think>") == ("", "<think>")


@pytest.mark.parametrize(
    ("token", "template", "markers"),
    [
        (None, "", None),
        ("</think>", "", ("<think>", "</think>")),
        ("[/THINK]", "", ("[THINK]", "[/THINK]")),
        (None, "{{ content.split('</think>')[-1] }}", ("<think>", "</think>")),
        (None, "<seed:think>x</seed:think>", ("<seed:think>", "</seed:think>")),
    ],
)
def test_what_stands_for_thoughts_is_found_in_tokenizer_and_template(
    token: str | None, template: str, markers: tuple[str, str] | None
) -> None:
    """Nobody need say it (case S4)."""
    tokenizer = Tokenizer(models.WordLevel({token or "x": 0}, unk_token=token or "x"))
    found = reasoning.found(tokenizer, template)
    assert (None if found is None else (found.start, found.end)) == markers


@pytest.mark.parametrize("size", [1, 3, 100])
def test_markers_that_are_special_tokens_are_seen_all_the_same(size: int) -> None:
    """They have no text else: Magistral's thoughts would run into its answer. Their tokens are counted (case S4)."""
    tokenizer = byte_tokenizer()
    tokenizer = Tokenizer.from_str(tokenizer.to_str().replace("</think>", "[/THINK]"))
    tokenizer.add_special_tokens(["[THINK]", "[/THINK]"])
    ids = tokenizer.encode("[THINK]hm 🤖[/THINK] ok").ids
    choice = Choice(0, TextModel(tokenizer, 300), b"prompt", stop=(), chat=True, num_top=None)
    events = [event for at in range(0, len(ids), size) for event in choice.take(Output(1, ids[at : at + size]))]
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == "hm 🤖"
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "ok"
    assert choice.num_thoughts == 1 + len("hm 🤖".encode()) + 1


def _choice(stop: tuple[str, ...] = (), **changed: Any) -> Choice:
    return Choice(0, MODEL, b"prompt", **{"stop": stop, "chat": True, "num_top": None, **changed})


def test_the_end_of_sequence_token_is_counted_but_not_shown() -> None:
    """It ends the answer with `stop`."""
    choice = _choice()
    events = [*choice.take(Output(1, list(b"hi"))), *choice.take(Output(1, [EOS], "stop"))]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "hi"
    assert events[-1] == Finished(0, "stop")
    assert choice.num_tokens == 3


def test_a_stop_string_ends_the_choice_and_is_named() -> None:
    """Tokens behind it in the same step are nobody's."""
    choice = _choice(("STOP",))
    events = [*choice.take(Output(1, list(b"ab ST"))), *choice.take(Output(1, list(b"OP and more")))]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "ab "
    assert choice.finished == Finished(0, "stop", "STOP")
    assert choice.num_tokens == len("ab STOP")


def test_log_probabilities_are_of_every_token_also_while_text_is_held_back() -> None:
    """Half a character has a token, bytes and a log-probability of its own."""
    choice = _choice(num_top=1)
    probabilities = [TokenLogprobs(-0.1, [65, 66], [-0.1, -2.0])] * 2
    events = list(choice.take(Output(1, list("é".encode()), None, probabilities)))
    shown = [each for event in events if isinstance(event, TextDelta) for each in event.logprobs]
    assert b"".join(each.token_bytes for each in shown) == "é".encode()
    assert [[top.token for top in each.top] for each in shown] == [["A"], ["A"]]


def test_reasoning_is_told_from_the_answer_only_in_chats() -> None:
    """A completion is the model's raw text."""
    said = list(b"<think>hm</think>ok")
    chat = list(_choice().take(Output(1, said, "length")))
    assert ReasoningDelta(0, "hm") in chat
    raw = list(_choice(chat=False).take(Output(1, said, "length")))
    assert "".join(event.text for event in raw if isinstance(event, TextDelta)) == "<think>hm</think>ok"
