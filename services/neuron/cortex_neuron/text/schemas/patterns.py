"""Patterns: JSON Schema's are of ECMA-262, llguidance's of Rust's regex crate, where the same words mean other things.

Owns: saying the one in the other. What has one meaning stays as it is; what is no pattern is llguidance's to refuse.
Called by: reading.
"""

from __future__ import annotations

import re

_SPACE = r"\t\n\x0B\x0C\r \u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000\uFEFF"
_PART = re.compile(r"\\.|\[\^?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
_PARTS = {
    r"\s": f"[{_SPACE}]",
    r"\S": f"[^{_SPACE}]",
    ".": r"[^\n\r\u2028\u2029]",
    "[]": r"[^\x00-\U0010FFFF]",
    "[^]": "(?s:.)",
}
_IN_CLASS = re.compile(r"\\.|[\[&~]", re.DOTALL)
# Rust's classes hold classes, and && and ~~ between them.
_IN_CLASSES = {r"\s": _SPACE, "[": r"\[", "&": r"\&", "~": r"\~"}


def translated(pattern: str) -> str:
    """The same strings, in Rust's words."""
    return _PART.sub(_part, pattern)


def _part(found: re.Match[str]) -> str:
    part = found[0]
    if part in _PARTS or part[0] != "[":
        return _PARTS.get(part, part)
    return "[" + _IN_CLASS.sub(lambda inner: _IN_CLASSES.get(inner[0], inner[0]), part[1:])
