"""Documents by how well they answer a query, in Cohere's and Jina's words.

Owns: the shapes of /v1/rerank. Called by: cortex_dialects.rerank, and the services' OpenAPI documents.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, Tag

from cortex_contracts.wire.embeddings import InputUsage
from cortex_contracts.wire.shape import INT32_MAX, LeftOut, Lenient, Shape, either

MOST_DOCUMENTS = 2048


class TextDocument(Lenient):
    """A document with fields of which one is its text; the others are not looked at."""

    text: str


def _document_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, dict | TextDocument) else None


Document = Annotated[
    Annotated[str, Tag("string")] | Annotated[TextDocument, Tag("object")],
    either("a string or an object with a text", _document_kind),
]


class RerankRequest(Shape):
    """POST /v1/rerank"""

    model: Annotated[str, Field(min_length=1)]
    query: str
    documents: Annotated[list[Document], Field(min_length=1, max_length=MOST_DOCUMENTS, fail_fast=True)]
    top_n: Annotated[int, Field(ge=1, le=INT32_MAX)] | None = None
    return_documents: bool | None = None
    user: str | None = None


class RankedText(BaseModel):
    text: str


class Ranked(BaseModel):
    """A document by its place in the request; `relevance_score` is from 0 to 1."""

    index: int
    relevance_score: float
    document: RankedText | None = LeftOut  # with return_documents


class Ranking(BaseModel):
    """The answer of /v1/rerank: the best first"""

    id: str
    model: str
    results: list[Ranked]
    usage: InputUsage
