"""Anthropic's SDK for Python: the demo model is made to call a tool, streamed, and answers its result, streamed.

The call is forced by tool_choice; the SDK's accumulator puts the message together, and it goes back as it is.
"""

from __future__ import annotations

from typing import Any

from anthropic import Anthropic
from weather import (
    CITIES,
    DESCRIPTION,
    KEY,
    MODEL,
    QUESTION,
    RESULT,
    SCHEMA,
    URL,
    seen,
)

TOOL: Any = {"name": "weather", "description": DESCRIPTION, "input_schema": SCHEMA}

client = Anthropic(base_url=URL, api_key=KEY, max_retries=0)
messages: list[Any] = [{"role": "user", "content": QUESTION}]
named: Any = {"type": "tool", "name": "weather"}

with client.messages.stream(model=MODEL, max_tokens=256, messages=messages, tools=[TOOL], tool_choice=named) as stream:
    kinds = [event.type for event in stream]
    message = stream.get_final_message()
assert "input_json" in kinds, kinds
assert message.stop_reason == "tool_use", message
(use,) = (block for block in message.content if block.type == "tool_use")
assert use.name == "weather", use
assert use.input["city"] in CITIES, use

result = {"type": "tool_result", "tool_use_id": use.id, "content": RESULT}
messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
with client.messages.stream(
    model=MODEL, max_tokens=64, messages=messages, tools=[TOOL], tool_choice={"type": "none"}
) as stream:
    deltas = list(stream.text_stream)
    answer = stream.get_final_message()
assert answer.content[0].text == "".join(deltas) != "", answer
assert answer.usage.output_tokens, answer.usage
seen(f"weather({use.input['city']}), then {len(deltas)} pieces of an answer")
