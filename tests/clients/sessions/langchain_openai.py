"""LangChain with langchain-openai: a tool bound to the demo model, its call forced, streamed; then the result.

ChatOpenAI's chunks are added up, as agents do, and the sum goes back as the message that made the call.
"""

from __future__ import annotations

import functools
import operator

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from weather import CITIES, DESCRIPTION, KEY, MODEL, QUESTION, RESULT, SCHEMA, URL, seen

TOOL = {"type": "function", "function": {"name": "weather", "description": DESCRIPTION, "parameters": SCHEMA}}

chat = ChatOpenAI(base_url=f"{URL}/v1", api_key=KEY, model=MODEL, max_retries=0, temperature=0, stream_usage=True)
messages = [HumanMessage(QUESTION)]

asking = functools.reduce(operator.add, chat.bind_tools([TOOL], tool_choice="weather").stream(messages))
(call,) = asking.tool_calls
assert (call["name"], call["args"]["city"] in CITIES) == ("weather", True), call
assert asking.usage_metadata, asking

messages += [asking, ToolMessage(RESULT, tool_call_id=call["id"])]
pieces = list(chat.bind_tools([TOOL], tool_choice="none").stream(messages))
answer = functools.reduce(operator.add, pieces)
assert answer.text, answer
assert answer.usage_metadata["output_tokens"], answer
seen(f"weather({call['args']['city']}), then {len(pieces)} chunks of an answer")
