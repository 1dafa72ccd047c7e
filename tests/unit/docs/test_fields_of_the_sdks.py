"""docs/api.md against every field that the official SDKs can send, at any depth: read, accepted or refused by name.

So that nothing is silently ignored (case W9), each is sent to the parsers, beside a plain request. What a field changes
is what is asked of the engine; what an answer merely repeats of its request, and who asked, does not count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
from anthropic.types.beta.message_count_tokens_params import MessageCountTokensParams as BetaCountTokens
from anthropic.types.beta.message_create_params import MessageCreateParamsStreaming as BetaMessages
from anthropic.types.message_count_tokens_params import MessageCountTokensParams
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as Chat
from openai.types.completion_create_params import CompletionCreateParamsStreaming as Completions
from openai.types.embedding_create_params import EmbeddingCreateParams
from openai.types.responses.input_token_count_params import InputTokenCountParams
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pages import page, rows
from sdk_fields import Fate, Fates, walk

from cortex_contracts.wire.responses import LOGPROBS
from cortex_dialects.anthropic import parse_count_tokens, parse_messages
from cortex_dialects.embeddings import parse_embeddings
from cortex_dialects.generation import Generation
from cortex_dialects.openai import parse_chat, parse_completion
from cortex_dialects.responses import parse_input_tokens, parse_responses

TEXT = page("api.md")
USER = {"role": "user", "content": "x"}
FUNCTIONS = [{"type": "function", "name": name, "parameters": {}} for name in "xy"]
CHAT_FUNCTIONS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in "xy"]
TOOLS = [{"name": name, "input_schema": {}} for name in "xy"]
# The tables of what a route takes, and the words of their second column that mean it; "" where there is no such column.
TAKEN = {
    "chat": [("Parameters of OpenAI's routes", "chat"), ("Parameters of OpenAI's routes", "both")],
    "completions": [("Parameters of OpenAI's routes", "completions"), ("Parameters of OpenAI's routes", "both")],
    "responses": [("Parameters of responses", "responses"), ("Parameters of responses", "both")],
    "input_tokens": [("Parameters of responses", "both")],
    "messages": [("Parameters of Anthropic's routes", "messages"), ("Parameters of Anthropic's routes", "both")],
    "count_tokens": [("Parameters of Anthropic's routes", "both")],
    "embeddings": [("Parameters of embeddings", "")],
}
HEADERS = {"betas"}  # the SDK sends it as one


@dataclass(frozen=True)
class Route:
    parse: Callable[[bytes], object]
    plain: Mapping[str, Any]  # such that every field can have its effect
    typed_dicts: tuple[Any, ...]

    def ask(self, body: dict[str, Any]) -> object:
        """A conversation ends with the user, whatever else was put into it."""
        for name in ("messages", "input"):
            if isinstance(body.get(name), list) and isinstance(body[name][0], dict):
                body = {**body, name: [*body[name], USER]}
        asked = self.parse(json.dumps(body).encode())
        return replace(asked, repeated=None, user=None) if isinstance(asked, Generation) else asked


ANTHROPIC = {"model": "m", "messages": [USER], "tools": TOOLS}
ROUTES = {
    "chat": Route(
        parse_chat,
        {"model": "m", "messages": [USER], "tools": CHAT_FUNCTIONS, "stream": True, "logprobs": True},
        (Chat,),
    ),
    "completions": Route(parse_completion, {"model": "m", "prompt": "x", "stream": True}, (Completions,)),
    "responses": Route(
        parse_responses,
        {"model": "m", "input": [USER], "tools": FUNCTIONS, "stream": True, "include": [LOGPROBS]},
        (ResponseCreateParamsStreaming,),
    ),
    "input_tokens": Route(
        parse_input_tokens, {"model": "m", "input": [USER], "tools": FUNCTIONS}, (InputTokenCountParams,)
    ),
    "messages": Route(parse_messages, {**ANTHROPIC, "max_tokens": 5}, (MessageCreateParamsStreaming, BetaMessages)),
    "count_tokens": Route(parse_count_tokens, ANTHROPIC, (MessageCountTokensParams, BetaCountTokens)),
    "embeddings": Route(parse_embeddings, {"model": "m", "input": "x"}, (EmbeddingCreateParams,)),
}


@cache
def walked(name: str) -> tuple[Fate, Fates]:
    route = ROUTES[name]
    return walk(route.typed_dicts, route.plain, route.ask)


@pytest.mark.parametrize("name", ROUTES)
def test_every_parameter_of_the_sdks_is_in_a_table(name: str) -> None:
    """Of those that are taken, or of those that are refused; in the latter if and only if it is."""
    fate, _ = walked(name)
    taken = {row[0].strip("`") for table, of in TAKEN[name] for row in rows(TEXT, table) if of in ("", *row[1:-1])}
    of = "messages" if name == "count_tokens" else name
    refused = {row[0].strip("`") for row in rows(TEXT, "Parameters that are refused") if of in row[1].split(", ")}
    assert fate.read
    assert fate.read | fate.silent <= taken
    assert fate.refused.keys() - HEADERS <= refused


def test_every_field_inside_of_a_parameter_has_its_row_with_what_becomes_of_it() -> None:
    """And no row tells of a field that no SDK has, or tells it otherwise."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name in ROUTES:
        for place, fate in walked(name)[1].items():
            if fate.whole:
                found.setdefault((f"`{place}`", *_cells(fate)), []).append(name)
    expected = {_line(place, ", ".join(of), *cells) for (place, *cells), of in found.items()}
    assert {_line(*row) for row in rows(TEXT, "Fields inside of parameters")} == expected


def test_every_kind_of_object_that_is_refused_is_told() -> None:
    """By its type or role, and where it stands."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in ROUTES:
        for place, fate in walked(name)[1].items():
            if not fate.whole:
                where, _, kind = place.removesuffix("]").rpartition("[")
                found.setdefault((where, kind), []).append(name)
    kinds: dict[tuple[str, str], set[str]] = {}
    for (where, kind), of in found.items():
        kinds.setdefault((f"`{where}`", ", ".join(of)), set()).add(kind)
    expected = {_line(where, of, _names(inside)) for (where, of), inside in kinds.items()}
    assert {_line(*row) for row in rows(TEXT, "Kinds of objects that are refused")} == expected


def _cells(fate: Fate) -> tuple[str, str, str]:
    refused = []
    for name, taken in sorted(fate.refused.items()):
        but = " or ".join(f"`{json.dumps(value)}`" for value in taken)
        refused.append(f"`{name}`" + (f" but {but}" if but else ""))
    return _names(fate.read), _names(fate.silent), ", ".join(refused)


def _names(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")
