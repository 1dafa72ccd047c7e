"""What an answer's tokens must keep to, as one grammar for the engine: the form asked for, forced calls, thoughts.

Owns: how these are put together, and the words for what no grammar can say. Does not own: the pieces (lark, tool_calls)
or keeping to it (engine.grammar). Called by: inference.preparation, which has it done in a thread.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import GbnfToLarkError, any_to_lark

from cortex_contracts.wire.errors import InvalidParameter
from cortex_dialects.generation import AnswerFormat, ToolUse
from cortex_neuron.text import lark
from cortex_neuron.text.judgement import problem
from cortex_neuron.text.lark import Lark
from cortex_neuron.text.schemas.reading import read
from cortex_neuron.text.schemas.refusal import Refused
from cortex_neuron.text.text_model import TextModel
from cortex_neuron.text.tool_calls.json_rules import arguments_schema

_FORM = "form"  # the name of a client's own grammar
_AFTER_THOUGHT = r"/[ \n]{0,4}/"
_LONGEST_REASON = 300
# Characters: such a one is compiled in a second or two.
_LONGEST = 1_000_000


def grammar(
    model: TextModel, prompt: Sequence[int], form: AnswerFormat | None, use: ToolUse | None, *, chat: bool
) -> str | None:
    """The grammar in llguidance's words; None where any answer will do. Raises InvalidParameter."""
    forced = use is not None and use.forced
    if form is None and not forced:
        use = _strict(model, use)
        if use is None:
            return None
    form, use = _read(form), _read_tools(use)
    words = Lark(model.added_tokens)
    rules = [_start(model, prompt, words) if chat else "start: body"]
    if forced:
        rules.append("body: calls")
    elif form is not None:
        rules.append("body: form | calls" if use is not None else "body: form")
        rules.append(f"form: {_form(form)}")
    else:
        rules.append("body: free | free calls\nfree: /(?s:.*)/")
    if use is not None:
        assert model.tool_format is not None, "else tools are refused"
        rules.append(model.tool_format.rules(use, words))
    whole = _whole("\n".join(rules), None if forced else form)
    if len(whole) > _LONGEST:
        place = form.place if form is not None else "tools"
        raise InvalidParameter(
            f"{place}: {len(whole)} characters of grammar; at most {_LONGEST} are taken", param=place
        )
    if (reason := problem(whole)) is not None:
        raise _culprit(form, use, reason)
    return whole


def _strict(model: TextModel, use: ToolUse | None) -> ToolUse | None:
    """The tools, where a call of a strict one can be kept to its schema without being forced; None where none can.

    What begins a call must be a token of its own: text is free, but can never hold that.
    """
    calls = model.tool_format
    if use is None or calls is None or not any(tool.strict for tool in use.tools):
        return None
    if not all(opening in model.added_tokens for opening in calls.openings) or calls.bare:
        return None
    if calls.names_arguments and not all(tool.strict for tool in use.tools):
        return None
    return replace(use, tools=tuple(t if t.strict else replace(t, schema={}) for t in use.tools))


def _read(form: AnswerFormat | None) -> AnswerFormat | None:
    if form is None or form.kind != "json_schema":
        return form
    return replace(form, value=_schema(form.value, form.place))


def _read_tools(use: ToolUse | None) -> ToolUse | None:
    if use is None:
        return None
    tools = (replace(each, schema=_schema(arguments_schema(each), each.place)) for each in use.tools)
    return replace(use, tools=tuple(tools))


def _schema(schema: dict[str, Any], place: str) -> dict[str, Any]:
    try:
        return read(schema)
    except Refused as error:
        raise InvalidParameter(f"{place}: {error}", param=place) from error


def _start(model: TextModel, prompt: Sequence[int], words: Lark) -> str:
    """Thoughts first, where the model has them: in these it is free."""
    markers = model.thought_markers
    if markers is None or model.has_thought(prompt):
        return "start: body"
    opened = model.begins_in_thought(prompt)
    before = "thought" if opened else "(thought_start thought)?"
    end = words.mark(markers.end)
    rules = [f"start: {before} body", f"thought_start: {words.mark(markers.start)}"]
    if markers.end in model.added_tokens:
        return "\n".join([*rules, f"thought: thoughts {end} {_AFTER_THOUGHT}", "thoughts: /(?s:.*)/"])
    return "\n".join([*rules, f"thought: thoughts {_AFTER_THOUGHT}", f"thoughts{lark.anything(markers.end)}"])


def _form(form: AnswerFormat) -> str:
    if form.kind == "json_schema":
        return lark.schema(form.value)
    if form.kind == "choice":
        return " | ".join(map(lark.text, form.value))
    return f"@{_FORM}"


def _whole(rules: str, form: AnswerFormat | None) -> str:
    """One grammar, or one with the client's own beside it."""
    if form is None or form.kind not in ("regex", "grammar"):
        return rules
    grammars = [{"name": "answer", "lark_grammar": rules}, {"name": _FORM, "lark_grammar": _own(form)}]
    return json.dumps({"grammars": grammars})


def _own(form: AnswerFormat) -> str:
    if form.kind == "regex":
        own: str = json.loads(LLMatcher.grammar_from_regex(form.value))["grammars"][0]["lark_grammar"]
        return own
    try:
        own = any_to_lark(form.value)
    except (GbnfToLarkError, RecursionError) as error:
        raise InvalidParameter(f"{form.place}: {str(error)[:_LONGEST_REASON]}", param=form.place) from error
    is_error, said = LLMatcher.validate_grammar_with_warnings(own)
    if not is_error and any("no tokenizer" in each for each in said):  # that they exist, only the engine could say
        raise InvalidParameter(f"{form.place}: special tokens (<…>) are not taken in grammars", param=form.place)
    return own


def _culprit(form: AnswerFormat | None, use: ToolUse | None, reason: str) -> InvalidParameter:
    """The error, by the name of the part that is at fault."""
    if form is not None:
        alone = _whole(f"start: {_form(form)}", form)
        if (own := problem(alone)) is not None:
            return InvalidParameter(f"{form.place}: {own}", param=form.place)
    for tool in use.tools if use is not None else ():
        if (own := problem(f"start: {lark.schema(arguments_schema(tool))}")) is not None:
            return InvalidParameter(f"{tool.place}: {own}", param=tool.place)
    place = form.place if form is not None else "tool_choice"
    return InvalidParameter(f"{place}: no grammar can be made of it: {reason}", param=place)
