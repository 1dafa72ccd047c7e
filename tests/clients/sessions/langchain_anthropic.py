"""LangChain with langchain-anthropic: a tool bound to the demo model, its call forced, streamed; then the result.

ChatAnthropic's chunks are added up, as agents do, and the sum goes back as the message that made the call.
"""

from __future__ import annotations

import functools
import operator

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from weather import CITIES, DESCRIPTION, KEY, MODEL, QUESTION, RESULT, SCHEMA, URL, seen

TOOL = {"name": "weather", "description": DESCRIPTION, "input_schema": SCHEMA}

chat = ChatAnthropic(base_url=URL, api_key=KEY, model=MODEL, max_retries=0, temperature=0, max_tokens=256)
messages = [HumanMessage(QUESTION)]

asking = functools.reduce(operator.add, chat.bind_tools([TOOL], tool_choice="weather").stream(messages))
(call,) = asking.tool_calls
assert (call["name"], call["args"]["city"] in CITIES) == ("weather", True), call

messages += [asking, ToolMessage(RESULT, tool_call_id=call["id"])]
pieces = list(chat.bind_tools([TOOL], tool_choice={"type": "none"}).stream(messages))
answer = functools.reduce(operator.add, pieces)
assert answer.text, answer
assert answer.usage_metadata["output_tokens"], answer
seen(f"weather({call['args']['city']}), then {len(pieces)} chunks of an answer")
