"""What the sessions in Python say: one tool, one question, and orders to the model that says what it is told.

A session is a program of its own, run by the Python of its client: this imports nothing but what Python brings.
It ends with 0 where it went well, with 77 where it must be skipped; its last line says what was seen, or why. An
exception is a failure.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

URL = os.environ["CORTEX_URL"]
MODEL = os.environ["CORTEX_MODEL"]  # a real one, of 135 million parameters: it calls a tool when it must
TOLD = os.environ["CORTEX_TOLD"]  # does as the last {"…"} of its prompt says, be that the user's or a tool's
KEY = "unused"  # the fleet has no keys, SDKs want one

CITIES = ("Oslo", "Zürich")
QUESTION = "What is the weather in Zürich?"
RESULT = "It rains in Zürich, at 7 degrees."
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": list(CITIES)}},
    "required": ["city"],
    "additionalProperties": False,
}
DESCRIPTION = "The weather in a city."

_SKIPPED = 77


def told_to_call(tool: str, **arguments: Any) -> str:
    """A prompt that has the told model say something and call this tool."""
    call = json.dumps({"name": tool, "arguments": arguments}, ensure_ascii=False)
    return told_to_say(f"Let me see.\n<tool_call>\n{call}\n</tool_call>")


def told_to_say(text: str) -> str:
    """A prompt, or a tool's result, that has the told model say this. So an answer shows that the result was read."""
    return json.dumps({"reply": text, "tokens_per_step": 4}, ensure_ascii=False)


def seen(words: str) -> None:
    """The last line: what the session saw."""
    print(words)


def skip(reason: str) -> NoReturn:
    """End here: this cannot be tried, and why."""
    print(reason)
    sys.exit(_SKIPPED)
