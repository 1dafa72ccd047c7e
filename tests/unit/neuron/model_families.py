"""Chat templates of the families whose calls are understood, each with a tokenizer that has its markers."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from scripted_model import byte_tokenizer
from tokenizers import AddedToken, Tokenizer

from cortex_dialects.generation import ToolSchema, ToolUse
from cortex_neuron.text.template import ChatTemplate
from cortex_neuron.text.text_model import TextModel

FOLDER = Path(__file__).parent / "families"
# The markers that a family's vocabulary has, and whether they are special tokens there.
MARKERS = {
    "hermes": (["<tool_call>", "</tool_call>"], False),
    "qwen_xml": (["<tool_call>", "</tool_call>"], False),
    "llama3_json": (["<|python_tag|>", "<|eot_id|>"], True),
    "mistral": (["[TOOL_CALLS]", "[INST]", "[/INST]"], True),
    "mistral_args": (["[TOOL_CALLS]", "[ARGS]", "[INST]", "[/INST]"], True),
    "deepseek_v3": (
        [f"<｜tool▁{each}｜>" for each in ("calls▁begin", "call▁begin", "sep", "call▁end", "calls▁end")],
        True,
    ),
    "deepseek_v31": (
        [f"<｜tool▁{each}｜>" for each in ("calls▁begin", "call▁begin", "sep", "call▁end", "calls▁end")],
        False,
    ),
}
FAMILIES = sorted(MARKERS)
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
CLOCK = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = tuple(
    {"type": "function", "function": {"name": name, "description": "", "parameters": schema}}
    for name, schema in (("weather", WEATHER), ("clock", CLOCK))
)
USE = ToolUse(tuple(ToolSchema(tool["function"]["name"], tool["function"]["parameters"], "x") for tool in TOOLS))  # type: ignore[index]


def template(family: str) -> str:
    return (FOLDER / f"{family}.jinja").read_text()


def tokenizer(family: str) -> Tokenizer:
    made = byte_tokenizer()
    markers, special = MARKERS[family]
    made.add_tokens([AddedToken("<think>")])
    tokens = [AddedToken(each, special=special, normalized=False) for each in markers]
    if special:
        made.add_special_tokens(tokens)
    else:
        made.add_tokens(tokens)
    return made


@lru_cache
def model(family: str) -> TextModel:
    special = {"bos_token": "<|start|>", "eos_token": "<|end|>"}
    made = tokenizer(family)
    return TextModel(made, made.get_vocab_size(), ChatTemplate(template(family), special))


def call_turn(*calls: tuple[str, dict[str, Any]], content: str = "") -> dict[str, Any]:
    """An assistant's turn as it reaches a template."""
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [
            {"id": f"abcdefgh{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(calls)
        ],
    }


def written(family: str, *calls: tuple[str, dict[str, Any]], content: str = "") -> str:
    """What the family's template writes for these calls: what its models were taught to say."""
    source = ChatTemplate(template(family), {"bos_token": "", "eos_token": "<END>"})
    user = {"role": "user", "content": "hi"}
    before = source.render([user], (), {"add_generation_prompt": False})
    whole = source.render([user, call_turn(*calls, content=content)], (), {"add_generation_prompt": False})
    said = whole[len(before) :].rstrip()
    for head in ("<|im_start|>assistant\n", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<｜Assistant｜>"):
        said = said.removeprefix(head)
    for tail in ("<|im_end|>", "<|eot_id|>", "<END>", "<｜end▁of▁sentence｜>"):
        said = said.removesuffix(tail)
    return said.removeprefix("</think>")


def forced(family: str, *calls: tuple[str, dict[str, Any]]) -> str:
    """The same as a grammar has them: without the ids that Mistral's template adds, which are ours to give."""
    said = written(family, *calls)
    return re.sub(r', "id": "abcdefgh\d+"(?=\})', "", said) if family == "mistral" else said


def arguments(call: Any) -> Any:
    return json.loads(call.arguments)
