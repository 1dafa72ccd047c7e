"""Claude Code's command line, `claude -p`: it is asked to read a file, and says what stands in it.

Its prompt has 56,000 characters and some twenty tools, and it forces no call, so it is the told model: the prompt has
it call Claude Code's tool Read, and what the file says decides the answer.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from weather import KEY, RESULT, TOLD, URL, seen, told_to_call, told_to_say

note = Path("note.txt").resolve()
note.write_text(told_to_say(RESULT) + "\n")
settings = {
    "ANTHROPIC_BASE_URL": URL,
    "ANTHROPIC_API_KEY": KEY,
    "ANTHROPIC_MODEL": TOLD,
    "ANTHROPIC_DEFAULT_HAIKU_MODEL": TOLD,
    "CLAUDE_CONFIG_DIR": str(Path("settings").resolve()),
}
command = ["claude", "-p", told_to_call("Read", file_path=str(note)), "--output-format", "stream-json", "--verbose"]
told = subprocess.run(
    command, env={**os.environ, **settings}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
)
assert told.returncode == 0, told
events = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("{")]
blocks = [block for event in events if event["type"] == "assistant" for block in event["message"]["content"]]
(use,) = (block for block in blocks if block["type"] == "tool_use")
assert (use["name"], use["input"]) == ("Read", {"file_path": str(note)}), use
result = events[-1]
assert (result["type"], result["is_error"], result["result"]) == ("result", False, RESULT), result
seen(f"Read(note.txt), then {RESULT!r}; prompts of {result['usage']['input_tokens']} bytes in all")
