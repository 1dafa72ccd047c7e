"""Requests to /v1/rerank, and their answers. Called by: the neuron."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from cortex_contracts.wire.embeddings import InputUsage
from cortex_contracts.wire.rerank import Ranked, RankedText, Ranking, RerankRequest
from cortex_dialects import unsupported
from cortex_dialects.json_body import parse_object
from cortex_dialects.validation import validate


@dataclass(frozen=True, slots=True)
class Rerank:
    """Which documents are to be ranked by which query, and how much of that is told."""

    model: str
    query: str
    documents: tuple[str, ...]
    top_n: int
    with_documents: bool


def parse_rerank(body: bytes) -> Rerank:
    """The body of /v1/rerank. Raises InvalidRequest's kin, and nothing else, for any bytes."""
    request = validate(RerankRequest, parse_object(body), unsupported.RERANK)
    documents = tuple(each if isinstance(each, str) else each.text for each in request.documents)
    top_n = len(documents) if request.top_n is None else request.top_n
    return Rerank(request.model, request.query, documents, top_n, bool(request.return_documents))


def ranking(asked: Rerank, scores: Sequence[bytes], num_tokens: int, answer_id: str) -> Ranking:
    """The answer, the best first; of equals, the one that was given first. Scores are little-endian float32."""
    numbers: list[float] = [struct.unpack("<f", each)[0] for each in scores]
    order = sorted(range(len(numbers)), key=lambda index: -numbers[index])[: asked.top_n]
    results = [
        Ranked(
            index=index,
            relevance_score=numbers[index],
            document=RankedText(text=asked.documents[index]) if asked.with_documents else None,
        )
        for index in order
    ]
    usage = InputUsage(prompt_tokens=num_tokens, total_tokens=num_tokens)
    return Ranking(id=answer_id, model=asked.model, results=results, usage=usage)
