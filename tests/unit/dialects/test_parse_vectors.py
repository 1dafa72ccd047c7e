"""/v1/embeddings and /v1/rerank: what a body asks for, and what an answer says."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from cortex_contracts.wire.errors import InvalidRequest
from cortex_dialects.embeddings import Embed, embedding_list, parse_embeddings
from cortex_dialects.generation import TextPrompt, TokenPrompt
from cortex_dialects.rerank import Rerank, parse_rerank, ranking


def floats(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("a", (TextPrompt("a"),)),
        ("", (TextPrompt(""),)),
        (["a", "b"], (TextPrompt("a"), TextPrompt("b"))),
        ([1, 2], (TokenPrompt((1, 2)),)),
        ([[1], [2, 3]], (TokenPrompt((1,)), TokenPrompt((2, 3)))),
    ],
)
def test_an_input_is_one_text_or_several(given: Any, inputs: Any) -> None:
    """In letters or in tokens."""
    body = {"model": "m", "input": given, "dimensions": 5, "encoding_format": "base64", "user": "me", "priority": 0}
    assert parse_embeddings(json.dumps(body).encode()) == Embed("m", inputs, 5, None, in_base64=True)
    least = parse_embeddings(json.dumps({"model": "m", "input": given, "dimensions": None}).encode())
    assert least == Embed("m", inputs, None, None, in_base64=False)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input": [1.5]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": [[1], "a"]}, "input[1]"),
        ({"input": None}, "input"),
        ({"input": "a", "encoding_format": "ubinary"}, "encoding_format"),
        ({"input": "a", "dimension": 4}, "dimension"),
        ({"input": "a", "truncate": "END"}, "truncate"),
    ],
)
def test_an_input_that_is_none_is_named(more: dict[str, Any], param: str) -> None:
    """Down to its place in the list."""
    with pytest.raises(InvalidRequest) as refused:
        parse_embeddings(json.dumps({"model": "m", **more}).encode())
    assert refused.value.param == param


def test_vectors_are_told_as_numbers_or_in_base64() -> None:
    """Little-endian, whatever the machine."""
    asked = Embed("m", (TextPrompt("a"), TextPrompt("b")), None, None, in_base64=False)
    answer = embedding_list(asked, [floats(0.5, -2), floats(1, 0)], 7).model_dump()
    assert [each["embedding"] for each in answer["data"]] == [[0.5, -2.0], [1.0, 0.0]]
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    packed = embedding_list(Embed("m", asked.inputs, None, None, in_base64=True), [floats(1)], 7)
    assert packed.data[0].embedding == "AACAPw=="


def test_documents_are_texts_with_or_without_fields() -> None:
    """All of them are told where nobody says how many."""
    body = {"model": "m", "query": "q", "documents": ["a", {"text": "b", "id": 3}], "return_documents": True}
    assert parse_rerank(json.dumps(body).encode()) == Rerank("m", "q", ("a", "b"), 2, with_documents=True)
    assert parse_rerank(json.dumps({**body, "top_n": 1}).encode()).top_n == 1


def test_the_best_is_first_and_of_equals_the_one_that_was_given_first() -> None:
    """As many as were asked for."""
    asked = Rerank("m", "q", ("a", "b", "c", "d"), 3, with_documents=True)
    answer = ranking(asked, [floats(0.25), floats(0.5), floats(0.5), floats(0.125)], 9, "rerank-1").model_dump()
    assert [(each["index"], each["relevance_score"]) for each in answer["results"]] == [(1, 0.5), (2, 0.5), (0, 0.25)]
    assert answer["results"][0]["document"] == {"text": "b"}
    bare = ranking(Rerank("m", "q", ("a",), 1, with_documents=False), [floats(0.25)], 9, "rerank-1").model_dump()
    assert bare["results"] == [{"index": 0, "relevance_score": 0.25}]
