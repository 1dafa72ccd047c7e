"""Anthropic's SDK for Python, its own loop: the tool runner calls a function here until there is an answer, streamed.

It is the told model: the prompt has it call the function, and what that gives decides the answer. The runner asks for
a `thread` first, is refused, and goes on without.
"""

from __future__ import annotations

from anthropic import Anthropic, beta_tool
from weather import KEY, RESULT, TOLD, URL, seen, told_to_call, told_to_say

asked = []


@beta_tool
def weather(city: str) -> str:
    """The weather in a city."""
    asked.append(city)
    return told_to_say(RESULT)


runner = Anthropic(base_url=URL, api_key=KEY, max_retries=0).beta.messages.tool_runner(
    model=TOLD,
    max_tokens=256,
    tools=[weather],
    messages=[{"role": "user", "content": told_to_call("weather", city="Zürich")}],
    stream=True,
)
last = [each.get_final_message() for each in runner][-1]
assert asked == ["Zürich"], asked
assert last.content[0].text == RESULT, last
seen(f"weather(Zürich), then {RESULT!r}")
