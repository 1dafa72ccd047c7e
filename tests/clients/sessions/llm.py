"""Simon Willison's `llm`: a prompt at the command line with a function as a tool, streamed, until the answer.

The model is declared in extra-openai-models.yaml. `llm` has no way to force a call, so it is the told model: the
prompt has it call the tool, and what the tool gives decides the answer.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from weather import KEY, RESULT, TOLD, URL, seen, told_to_call, told_to_say

settings = Path("llm")
settings.mkdir()
(settings / "extra-openai-models.yaml").write_text(
    f"- model_id: cortex\n  model_name: {TOLD}\n  api_base: {URL}/v1\n  supports_tools: true\n"
)
tool = f'''
def weather(city: str) -> str:
    """The weather in a city."""
    open("asked", "a").write(city)
    return {told_to_say(RESULT)!r}
'''
command = ["llm", "-m", "cortex", "--key", KEY, "--functions", tool, told_to_call("weather", city="Zürich")]
told = subprocess.run(
    command, env={**os.environ, "LLM_USER_PATH": str(settings)}, capture_output=True, text=True, check=False
)
assert told.returncode == 0, told.stderr
assert Path("asked").read_text() == "Zürich", told
assert told.stdout.strip().endswith(RESULT), told
seen(f"weather(Zürich), then {RESULT!r}")
