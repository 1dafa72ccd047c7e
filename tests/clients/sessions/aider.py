"""aider: one message from the command line, streamed, that changes a file.

aider uses no tools: it reads edits from the answer's text, here of its format `diff`. The demo model writes none, so
it is the told model, whose order in the message is the answer.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from weather import KEY, TOLD, URL, seen, told_to_say

EDIT = """greeting.py
```python
<<<<<<< SEARCH
print("Hello")
=======
print("Good morning")
>>>>>>> REPLACE
```
"""
prices = Path.home() / ".aider/caches/model_prices_and_context_window.json"
prices.parent.mkdir(parents=True)
prices.write_text('{"none": {}}')  # else it fetches a list of all models that there are
file = Path("greeting.py")
file.write_text('print("Hello")\n')
command = [
    "aider", "--model", f"openai/{TOLD}", "--openai-api-base", f"{URL}/v1", "--openai-api-key", KEY,
    "--edit-format", "diff", "--message", told_to_say(EDIT), "--yes-always", "--no-git", "--no-check-update",
    "--analytics-disable", "--no-show-release-notes", "--no-show-model-warnings", "--no-detect-urls", "--no-pretty",
    str(file),
]  # fmt: skip
told = subprocess.run(command, capture_output=True, text=True, check=False)
assert told.returncode == 0, told
assert file.read_text() == 'print("Good morning")\n', told.stdout + told.stderr
seen("greeting.py is changed as the answer said")
