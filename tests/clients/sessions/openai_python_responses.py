"""OpenAI's SDK for Python, responses: the same turn as in openai_python, by /v1/responses.

The output of the first response goes into the input of the second, with the tool's result: the way that needs no
state at the server. A fleet without the route is a skip.
"""

from __future__ import annotations

import json
from typing import Any

import openai
from weather import CITIES, DESCRIPTION, KEY, MODEL, QUESTION, RESULT, SCHEMA, URL, seen, skip

TOOL: Any = {"type": "function", "name": "weather", "description": DESCRIPTION, "parameters": SCHEMA, "strict": True}
NAMED: Any = {"type": "function", "name": "weather"}

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
turns: list[Any] = [{"role": "user", "content": QUESTION}]

try:
    with client.responses.stream(
        model=MODEL, input=turns, tools=[TOOL], tool_choice=NAMED, temperature=0, store=False
    ) as stream:
        kinds = [event.type for event in stream]
        first = stream.get_final_response()
except openai.NotFoundError as missing:
    if missing.code != "route_not_found":
        raise
    skip("the fleet has no /v1/responses")
assert kinds[0] == "response.created", kinds
assert kinds[-1] == "response.completed", kinds
assert "response.function_call_arguments.done" in kinds, kinds
(call,) = (item for item in first.output if item.type == "function_call")
city = json.loads(call.arguments)["city"]
assert (call.name, city in CITIES) == ("weather", True), call

turns += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": RESULT}]
with client.responses.stream(
    model=MODEL, input=turns, tools=[TOOL], tool_choice="none", temperature=0, store=False
) as stream:
    deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    answer = stream.get_final_response()
assert answer.output_text == "".join(deltas) != "", answer
assert answer.usage is not None
assert answer.usage.output_tokens, answer
seen(f"weather({city}), then {len(deltas)} pieces of an answer")
