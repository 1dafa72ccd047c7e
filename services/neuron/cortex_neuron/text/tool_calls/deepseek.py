"""DeepSeek: calls between markers; V3 and R1 write `function`, the name and fenced JSON, V3.1 the name and JSON."""

from __future__ import annotations

from collections.abc import Callable

from cortex_dialects.generation import ToolUse
from cortex_neuron.text.lark import Lark
from cortex_neuron.text.lark import text as quoted
from cortex_neuron.text.tool_calls.json_rules import alternatives, repeated
from cortex_neuron.text.tool_calls.layout import plain_layout
from cortex_neuron.text.tool_calls.tool_format import (
    Malformed,
    Parsed,
    ToolFormat,
    after_space,
    expect,
    json_value,
    named_call,
)

OPEN_ALL, CLOSE_ALL = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
OPEN, SEPARATOR, CLOSE = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_FENCE, _FENCE_END = "```json\n", "\n```"
_LONGEST_NAME = 200


def _parse(text: str, _: ToolUse) -> Parsed | None:
    start = after_space(text, len(OPEN_ALL)) if text.startswith(OPEN_ALL) else 0
    at = expect(text, start, OPEN)
    if at is None:
        return None
    separator = text.find(SEPARATOR, at)
    if separator < 0:
        if len(text) - at > _LONGEST_NAME:
            raise Malformed
        return None
    name, after = text[at:separator].strip(), separator + len(SEPARATOR)
    return _fenced(text, after) if name == "function" and not _is_json(text, after) else _plain(text, after, name)


def _is_json(text: str, at: int) -> bool:
    return text.startswith("{", after_space(text, at))


def _fenced(text: str, at: int) -> Parsed | None:
    fence = text.find(_FENCE, at)
    if fence < 0:
        if len(text) - at > _LONGEST_NAME:
            raise Malformed
        return None
    found = json_value(text, after_space(text, fence + len(_FENCE)))
    if found is None:
        return None
    call = named_call(text[at:fence].strip(), found[0])
    fence_end = expect(text, after_space(text, found[1]), _FENCE_END.strip())
    end = None if fence_end is None else expect(text, after_space(text, fence_end), CLOSE)
    return None if end is None else ([call], end)


def _plain(text: str, at: int, name: str) -> Parsed | None:
    found = json_value(text, after_space(text, at))
    if found is None:
        return None
    call = named_call(name, found[0])
    end = expect(text, after_space(text, found[1]), CLOSE)
    return None if end is None else ([call], end)


def _rules(body: Callable[[Lark, str, str], str], between: str) -> Callable[[ToolUse, Lark], str]:
    def rules(use: ToolUse, lark: Lark) -> str:
        all_calls = f"calls: {lark.mark(OPEN_ALL)} several {lark.mark(CLOSE_ALL)} | several"
        several = repeated(use, between).replace("calls:", "several:", 1)
        call = f"call: {lark.mark(OPEN)} tool {lark.mark(CLOSE)}"
        return "\n".join([all_calls, several, call, alternatives(use, lambda name, args: body(lark, name, args))])

    return rules


def _fenced_body(lark: Lark, name: str, arguments: str) -> str:
    return (
        f'"function" {lark.mark(SEPARATOR)} {quoted(name)} {quoted(chr(10) + _FENCE)} {arguments} {quoted(_FENCE_END)}'
    )


def _plain_body(lark: Lark, name: str, arguments: str) -> str:
    return f"{quoted(name)} {lark.mark(SEPARATOR)} {arguments}"


_MARKERS = (OPEN_ALL, CLOSE_ALL, OPEN, SEPARATOR, CLOSE)
_OPENINGS, _CLOSERS = (OPEN_ALL, OPEN), (CLOSE_ALL,)
_FENCED = plain_layout(
    f"{OPEN}function{SEPARATOR}", "\n", _FENCE, f"{_FENCE_END}{CLOSE}\n", f"{_FENCE_END}{CLOSE}{CLOSE_ALL}"
)
_PLAIN = plain_layout(OPEN, SEPARATOR, "", CLOSE, f"{CLOSE}{CLOSE_ALL}")
DEEPSEEK_V3 = ToolFormat("deepseek_v3", _OPENINGS, _parse, _rules(_fenced_body, '"\\n"'), _FENCED, _MARKERS, _CLOSERS)
DEEPSEEK_V31 = ToolFormat("deepseek_v31", _OPENINGS, _parse, _rules(_plain_body, ""), _PLAIN, _MARKERS, _CLOSERS)
