"""What an answer's tokens must keep to, as one grammar for the engine: the form asked for, calls, thoughts.

Owns: how these are put together, from where on they bind, and the words for what no grammar can say. Does not own: the
pieces (lark, tool_calls) or keeping to it (engine.grammar). Called by: inference.preparation, which has it done in a
thread.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from cortex_contracts.wire.errors import InvalidParameter
from cortex_dialects.generation import AnswerFormat, ToolUse
from cortex_neuron.protocol.frames import Opening
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


@dataclass(frozen=True, slots=True)
class Binding:
    """The grammar in llguidance's words; with an `opening`, of what comes from there on, else of the whole answer."""

    grammar: str
    opening: Opening | None = None


def binding(
    model: TextModel, prompt: Sequence[int], form: AnswerFormat | None, use: ToolUse | None, *, chat: bool
) -> Binding | None:
    """What binds the answer; None where any will do. Raises InvalidParameter."""
    forced = use is not None and use.forced
    if form is None and not forced:
        return None if use is None else _unforced(model, prompt, use)
    form, use = _read(form), None if use is None else _read_tools(use)
    words = Lark(model.added_tokens)
    rules = [_start(model, prompt, words) if chat else "start: body"]
    if forced:
        rules.append("body: calls")
    elif form is not None:
        rules.append("body: form | calls" if use is not None else "body: form")
        rules.append(f"form: {_form(form)}")
    if use is not None:
        assert model.tool_format is not None, "else tools are refused"
        rules.append(model.tool_format.rules(use, words))
    return Binding(_judged(_whole("\n".join(rules), None if forced else form), form, use))


def _judged(whole: str, form: AnswerFormat | None, use: ToolUse | None) -> str:
    if len(whole) > _LONGEST:
        place = form.place if form is not None else "tools"
        raise InvalidParameter(
            f"{place}: {len(whole)} characters of grammar; at most {_LONGEST} are taken", param=place
        )
    if (reason := problem(whole)) is not None:
        raise _culprit(form, use, reason)
    return whole


def _unforced(model: TextModel, prompt: Sequence[int], use: ToolUse) -> Binding | None:
    """Text is free until a call begins; from there on a grammar keeps to the format, and of strict tools to the schema.

    None where nothing tells the engine that a call begins, or where that cannot be kept to and nobody has asked for it.
    """
    strict = any(tool.strict for tool in use.tools)
    opening = _opening(model, prompt, use, required=strict)
    if opening is None:
        return None
    assert model.tool_format is not None, "it has an opening"
    kept = replace(use, tools=tuple(tool if tool.strict else replace(tool, schema={}) for tool in use.tools))
    try:
        kept = _read_tools(kept)
        rules = f"start: calls\n{model.tool_format.rules(kept, Lark(model.added_tokens))}"
        return Binding(_judged(rules, None, kept), opening)
    except InvalidParameter:
        if strict:
            raise
        return None


def _opening(model: TextModel, prompt: Sequence[int], use: ToolUse, *, required: bool) -> Opening | None:
    """What begins a call must be a token of its own, and so must what begins and ends a thought."""
    calls, markers, tokens = model.tool_format, model.thought_markers, model.added_tokens
    if calls is None or calls.bare or (calls.names_arguments and not all(tool.strict for tool in use.tools)):
        return None
    marks = [*calls.openings, *((markers.start, markers.end) if markers is not None else ())]
    if not all(mark in tokens for mark in marks):
        return None
    return Opening(
        tokens=[tokens[mark] for mark in calls.openings],
        thought=None if markers is None else (tokens[markers.start], tokens[markers.end]),
        in_thought=model.begins_in_thought(prompt),
        required=required,
    )


def _read(form: AnswerFormat | None) -> AnswerFormat | None:
    if form is None or form.kind != "json_schema":
        return form
    return replace(form, value=_schema(form.value, form.place))


def _read_tools(use: ToolUse) -> ToolUse:
    tools = (replace(each, schema=_schema(arguments_schema(each), each.place)) for each in use.tools)
    return replace(use, tools=tuple(tools))


def _schema(schema: dict[str, Any], place: str) -> dict[str, Any]:
    try:
        return read(schema)
    except Refused as error:
        raise InvalidParameter(f"{place}: {error}", param=place) from error


def _start(model: TextModel, prompt: Sequence[int], words: Lark) -> str:
    """Thoughts first, where the model has them: in these it is free, but for writing their end as text.

    An answer is read as text: such an end would be taken for the real one, and what follows for the answer.
    """
    markers = model.thought_markers
    if markers is None or model.has_thought(prompt):
        return "start: body"
    opened = model.begins_in_thought(prompt)
    before = "thought" if opened else "(thought_start thought)?"
    end = words.mark(markers.end)
    rules = [f"start: {before} body", f"thought_start: {words.mark(markers.start)}"]
    if markers.end in model.added_tokens:
        return "\n".join([*rules, f"thought: THOUGHTS {end} {_AFTER_THOUGHT}", lark.without("THOUGHTS", markers.end)])
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
    except Exception as error:  # the library raises several, and nothing more precise where no rule is the root
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
