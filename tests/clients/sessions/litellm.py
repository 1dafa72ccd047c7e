"""LiteLLM as a client, over both dialects: the demo model is made to call a tool and answers its result, streamed.

`openai/` asks /v1/chat/completions and `anthropic/` asks /v1/messages; the program that uses it says the same for both.
LiteLLM's own builder puts the chunks together.
"""

from __future__ import annotations

import json
from typing import Any

import litellm
from weather import CITIES, DESCRIPTION, KEY, MODEL, QUESTION, RESULT, SCHEMA, URL, seen

TOOL: Any = {"type": "function", "function": {"name": "weather", "description": DESCRIPTION, "parameters": SCHEMA}}
NAMED: Any = {"type": "function", "function": {"name": "weather"}}
ROUTES = {f"openai/{MODEL}": f"{URL}/v1", f"anthropic/{MODEL}": URL}


def streamed(model: str, messages: list[Any], tool_choice: Any) -> Any:
    """One turn, put together from its chunks."""
    chunks = list(
        litellm.completion(
            model=model, api_base=ROUTES[model], api_key=KEY, messages=messages, tools=[TOOL], tool_choice=tool_choice,
            temperature=0, max_tokens=256, stream=True, num_retries=0,
        )
    )  # fmt: skip
    assert len(chunks) > 1, chunks
    return litellm.stream_chunk_builder(chunks, messages=messages).choices[0].message


for route in ROUTES:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    asking = streamed(route, messages, NAMED)
    (call,) = asking.tool_calls
    assert call.function.name == "weather", call
    assert json.loads(call.function.arguments)["city"] in CITIES, call
    messages += [asking, {"role": "tool", "tool_call_id": call.id, "content": RESULT}]
    answer = streamed(route, messages, "none")
    assert answer.content, answer
seen(f"weather and an answer, by {' and by '.join(ROUTES)}")
