"""OpenAI's SDK for Python, chat: the demo model is made to call a tool, streamed, and answers its result, streamed.

The call is forced by naming the tool in tool_choice; the SDK's accumulator puts it together, and its message goes
back as it is. The second turn must not call again: tool_choice none. No limit and no chance: of an answer that a
limit has cut the SDK makes an error.
"""

from __future__ import annotations

import json
from typing import Any

from openai import OpenAI
from weather import CITIES, DESCRIPTION, KEY, MODEL, QUESTION, RESULT, SCHEMA, URL, seen

TOOL: Any = {"type": "function", "function": {"name": "weather", "description": DESCRIPTION, "parameters": SCHEMA}}
NAMED: Any = {"type": "function", "function": {"name": "weather"}}

client = OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
messages: list[Any] = [{"role": "user", "content": QUESTION}]

with client.chat.completions.stream(
    model=MODEL, messages=messages, tools=[TOOL], tool_choice=NAMED, temperature=0
) as stream:
    kinds = [event.type for event in stream]
    choice = stream.get_final_completion().choices[0]
assert "tool_calls.function.arguments.done" in kinds, kinds
assert choice.finish_reason in ("stop", "tool_calls"), choice
(call,) = choice.message.tool_calls or ()
assert call.function.name == "weather", call
city = json.loads(call.function.arguments)["city"]
assert city in CITIES, call

messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": RESULT}]
with client.chat.completions.stream(
    model=MODEL,
    messages=messages,
    tools=[TOOL],
    tool_choice="none",
    temperature=0,
    stream_options={"include_usage": True},
) as stream:
    deltas = [event.delta for event in stream if event.type == "content.delta"]
    answer = stream.get_final_completion()
assert answer.choices[0].message.content == "".join(deltas) != "", answer
assert answer.usage is not None
assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, answer.usage
seen(f"weather({city}), then {len(deltas)} pieces of an answer")
