"""Codex's command line, `codex exec`: it is asked to read a file by a shell command, and says what stands in it.

It knows /v1/responses alone (`wire_api = "chat"` is no longer taken), so a fleet without that route is a skip. It
forces no call, so it is the told model: the prompt has it call Codex's tool, and what the file says decides the answer.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from weather import KEY, RESULT, TOLD, URL, seen, skip, told_to_call, told_to_say

Path("note.txt").write_text(told_to_say(RESULT) + "\n")
settings = Path("settings").resolve()
settings.mkdir()
(settings / "config.toml").write_text(f"""
model = "{TOLD}"
model_provider = "cortex"
web_search = "disabled"
check_for_update_on_startup = false
[model_providers.cortex]
name = "cortex"
base_url = "{URL}/v1"
wire_api = "responses"
env_key = "CORTEX_KEY"
request_max_retries = 0
stream_max_retries = 0
[features]
multi_agent = false
apps = false
plugins = false
remote_plugin = false
[analytics]
enabled = false
""")
command = ["codex", "exec", "--json", "--skip-git-repo-check", told_to_call("exec_command", cmd="cat note.txt")]
told = subprocess.run(
    command, env={**os.environ, "CODEX_HOME": str(settings), "CORTEX_KEY": KEY}, stdin=subprocess.DEVNULL,
    capture_output=True, text=True, check=False,
)  # fmt: skip
if "no route POST /v1/responses" in told.stdout:
    skip("the fleet has no /v1/responses, and this Codex speaks nothing else")
assert told.returncode == 0, told
events = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("{")]
items = [event["item"] for event in events if event["type"] == "item.completed"]
(ran,) = (item for item in items if item["type"] == "command_execution")
assert RESULT in ran["aggregated_output"], ran
assert items[-1] == items[-1] | {"type": "agent_message", "text": RESULT}, items
seen(f"a command, then {RESULT!r}")
