"""Loaded by schemathesis: requests that come as far as an answer, which hardly one of those that it thinks out does.

Called by: described_api.py, through SCHEMATHESIS_HOOKS.
"""

from __future__ import annotations

import os
from itertools import cycle
from typing import Any

import schemathesis

MODEL = os.environ["CORTEX_FUZZ_MODEL"]
_STREAMED = cycle((True, False))
_STREAMING = ("/chat/completions", "/completions", "/messages", "/responses")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Every name of a model that is text, and not the empty one, is the model's; of requests that leave open whether
    they are streamed every second one is; and no deadline is so short that only a 5xx keeps it."""
    if not isinstance(case.body, dict):
        return
    body = dict(case.body)
    for name in ("model", "model_id"):
        if isinstance(body.get(name), str) and body[name]:
            body[name] = MODEL
    if body.get("stream") is None and case.operation.path.endswith(_STREAMING):
        body["stream"] = next(_STREAMED)
    deadline = body.get("timeout_s")
    if isinstance(deadline, int | float) and 0 < deadline < 1:
        body["timeout_s"] = 1
    case.body = body
