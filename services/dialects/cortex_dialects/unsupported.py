"""Parameters that a dialect knows and cortex does not honour, and the values that ask for nothing (case W9).

An absent or null parameter never asks for anything. Any other value than those listed is a 400 that names the
parameter, because the answer would differ from the one that was asked for. Called by: validation.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Parameter: values under which leaving it out changes nothing.
Unsupported = Mapping[str, tuple[Any, ...]]

_VLLM: Unsupported = {
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "truncate_prompt_tokens": (),
    "prompt_logprobs": (),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "logits_processors": ([],),
    "priority": (0,),
    "typical_p": (1,),
    "top_a": (0,),
}

CHAT: Unsupported = {
    **_VLLM,
    "messages[].audio": (),
    "messages[].function_call": (),
    "modalities": (["text"],),
    "audio": (),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "moderation": (),
    "prediction": (),
    "verbosity": ("medium",),
    "web_search_options": (),
    "best_of": (1,),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "documents": ([],),
    "chat_template": (),
    "mm_processor_kwargs": (),
}

COMPLETION: Unsupported = {
    **_VLLM,
    "best_of": (1,),
    "suffix": ("",),
    "add_special_tokens": (True,),
}

# Nothing is ever cut without a word, so neither may be asked for.
_TRUNCATION: Unsupported = {"truncate_prompt_tokens": (), "truncation": (False,), "truncate": ("NONE",)}

EMBEDDING: Unsupported = {
    **_TRUNCATION,
    "add_special_tokens": (True,),
    "priority": (0,),
}

RERANK: Unsupported = {
    **_TRUNCATION,
    "max_chunks_per_doc": (),
    "max_tokens_per_doc": (),
    "priority": (0,),
}

# A name with a dot is a field's inside of a parameter that is honoured.
MESSAGES: Unsupported = {
    "container": (),
    "context_management": ({"edits": []}, {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}),
    "mcp_servers": ([],),
    "speed": ("standard",),
    "user_profile_id": (),
    "workspace_id": (),
    "diagnostics": (),
    "thread": (),
    "fallbacks": ([],),
    "fallback_credit_token": (),
    "compaction": (),
    "billing_policy": (),
    "tools[].allowed_callers[]": ("direct",),
    "tools[].defer_loading": (False,),
    "tools[].input_examples": (),
}

INPUT_TOKENS: Unsupported = {
    "conversation": (),
    "personality": (),
    "previous_response_id": (),
    "reasoning.context": ("auto",),
    "reasoning.generate_summary": ("auto",),
    "reasoning.mode": ("standard",),
    "reasoning.summary": ("auto",),
    "text.verbosity": ("medium",),
    "tools[].allowed_callers[]": ("direct",),
    "tools[].async": (False,),
    "tools[].defer_loading": (False,),
    "tools[].output_schema": (),
    "truncation": ("disabled",),
}

RESPONSES: Unsupported = {
    **{name: values for name, values in INPUT_TOKENS.items() if name != "personality"},
    "access_programs": (),
    "background": (False,),
    "background_options": (),
    "context_management": ([],),
    "image": (),
    "moderation": (),
    "prompt": (),
}
