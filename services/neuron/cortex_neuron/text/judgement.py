"""What llguidance says of a grammar before anything is computed.

Owns: its words, with the keyword at fault in front where it does not say which. Does not own: whose grammar it is.
Called by: constraint, schemas.
"""

from __future__ import annotations

from functools import lru_cache

from llguidance import LLMatcher

_LONGEST_REASON = 300
_OF_SCHEMA = "failed to compile JSON schema: "
_NO_REGEX = "regex parse error:"
# What a complaint of a schema begins with where it does not name its keyword, and that.
_KEYWORDS = {
    "Resource ": "$ref or $schema",
    "Pointer ": "$ref",
    _NO_REGEX: "pattern",
    "lookarounds not supported": "pattern",
    "patternProperty regexes ": "patternProperties",
    "Failed to generate regex for ": "minimum, maximum, exclusiveMinimum or exclusiveMaximum",
}


@lru_cache(maxsize=256)
def problem(text: str) -> str | None:
    """Why there is no such grammar; None if there is."""
    return judged(text)


def judged(text: str) -> str | None:
    """The same, of what will not be asked again."""
    is_error, said = LLMatcher.validate_grammar_with_warnings(text)
    if not is_error:
        return None
    _, of_schema, words = _first(said[0]).rpartition(_OF_SCHEMA)
    return (_named(words) if of_schema else words)[:_LONGEST_REASON] or "it cannot be used"


def _first(said: str) -> str:
    """The line that says why. Where a pattern cannot be read it is another than the first."""
    first, _, rest = said.partition("\n")
    if not first.endswith(_NO_REGEX):
        return first
    why = next((line for line in rest.splitlines() if line.startswith("error: ")), "")
    return f"{first} {why.removeprefix('error: ')}"


def _named(words: str) -> str:
    if words.startswith("oneOf "):
        return "oneOf: alternatives are not known to exclude each other"
    keyword = next((keyword for start, keyword in _KEYWORDS.items() if words.startswith(start)), None)
    return words if keyword is None else f"{keyword}: {words}"
