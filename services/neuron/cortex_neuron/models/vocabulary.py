"""Whether two models mean the same tokens by the same ids.

Owns: the comparison. Does not own: the tokenizers' files (models.text_files). Called by: engine.draft_part.
"""

from __future__ import annotations

from tokenizers import Tokenizer


def first_difference(one: str, other: str) -> str | None:
    """In words, of the vocabularies of two tokenizer.json; None where one is the beginning of the other, or all of it:
    models differ in how many ids they keep in reserve."""
    if one == other:
        return None
    mine, theirs = _texts(one), _texts(other)
    differing = sorted(id_ for id_ in mine.keys() & theirs.keys() if mine[id_] != theirs[id_])
    if not differing:
        return None
    first = differing[0]
    example = f"{first}: {mine[first]!r} and {theirs[first]!r}"
    return f"of the ids that both have {len(differing)} differ, the first is {example}"


def _texts(tokenizer: str) -> dict[int, str]:
    vocabulary = Tokenizer.from_str(tokenizer).get_vocab(with_added_tokens=True)
    return {id_: text for text, id_ in vocabulary.items()}
