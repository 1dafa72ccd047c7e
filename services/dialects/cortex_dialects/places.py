"""A request that was translated into a chat request, with what is wrong with it called by the names its client knows.

Called by: anthropic.py, responses.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cortex_contracts.wire.errors import InvalidRequest
from cortex_dialects.generation import ChatPrompt, Generation
from cortex_dialects.openai import read_chat

# Pieces of a place in the chat request, and what the client calls the same: the first that fits first.
Places = Sequence[tuple[str, str]]


def read_as_chat(chat: dict[str, Any], places: Places) -> Generation:
    """A translated request. Raises InvalidRequest's kin."""
    try:
        generation = read_chat(chat)
    except InvalidRequest as error:
        place = _place(error.param or "", places)
        raise type(error)(error.message.replace(error.param or "", place), param=place or None) from error
    use, form = generation.tool_use, generation.answer_format
    if use is not None:
        use = replace(use, tools=tuple(replace(tool, place=_place(tool.place, places)) for tool in use.tools))
    if form is not None:
        form = replace(form, place=_place(form.place, places))
    prompts = tuple(
        replace(prompt, place=_place(prompt.place, places)) if isinstance(prompt, ChatPrompt) else prompt
        for prompt in generation.prompts
    )
    return replace(generation, prompts=prompts, tool_use=use, answer_format=form)


def _place(openai: str, places: Places) -> str:
    for theirs, ours in places:
        openai = openai.replace(theirs, ours)
    return openai
