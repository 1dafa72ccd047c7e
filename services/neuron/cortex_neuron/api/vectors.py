"""/v1/embeddings and /v1/rerank: nothing of an answer is there before all of it is.

Owns: these two routes. Does not own: their words (cortex_dialects), or what is refused (inference.vectors). A client
that goes away cancels the handler, and with it what the engine has not begun (case S8). Called by: application.
"""

from __future__ import annotations

import asyncio

from sanic import HTTPResponse, Request
from sanic.response import raw

from cortex_contracts.inventory.fleet import Task
from cortex_dialects.embeddings import embedding_list, parse_embeddings
from cortex_dialects.rerank import parse_rerank, ranking
from cortex_neuron.api import usage
from cortex_neuron.api.inference import accounted_whole, of_ours, parse_body, priority
from cortex_neuron.api.neuron import Neuron
from cortex_neuron.api.request_log import Outcome
from cortex_neuron.inference.vectors import compute, prepare_embed, prepare_rerank, seated
from cortex_neuron.residency.group_serving import GroupServing
from cortex_neuron.residency.resident import Resident


async def embeddings(request: Request) -> HTTPResponse:
    """POST /v1/embeddings"""
    return await accounted_whole(request, _embeddings)


async def rerank(request: Request) -> HTTPResponse:
    """POST /v1/rerank"""
    return await accounted_whole(request, _rerank)


async def _embeddings(request: Request, neuron: Neuron, outcome: Outcome) -> HTTPResponse:
    asked = await parse_body(request, parse_embeddings)
    resident, serving = _found(neuron, outcome, asked.model, "embed")
    with seated(resident, neuron.seats):
        prepared = await prepare_embed(asked, serving, priority(request))
        vectors = await compute(prepared, outcome.record)
    # Of a thousand texts it is a million numbers: in a thread.
    body = await asyncio.to_thread(
        lambda: embedding_list(asked, vectors, prepared.num_tokens).model_dump_json().encode()
    )
    return _answer(request, outcome, body)


async def _rerank(request: Request, neuron: Neuron, outcome: Outcome) -> HTTPResponse:
    asked = await parse_body(request, parse_rerank)
    resident, serving = _found(neuron, outcome, asked.model, "rerank")
    with seated(resident, neuron.seats):
        prepared = await prepare_rerank(asked.query, asked.documents, serving, priority(request))
        scores = await compute(prepared, outcome.record)
    answer_id = f"rerank-{outcome.request_id.removeprefix('req_')}"
    return _answer(request, outcome, ranking(asked, scores, prepared.num_tokens, answer_id).model_dump_json().encode())


def _found(neuron: Neuron, outcome: Outcome, name: str, task: Task) -> tuple[Resident, GroupServing]:
    """The model of that name. Raises the CortexError that says why it does not serve this."""
    outcome.model = name
    resident = neuron.residency.find(name)
    outcome.model = resident.model.id
    neuron.residency.check_open()
    return resident, of_ours(resident, task)


def _answer(request: Request, outcome: Outcome, body: bytes) -> HTTPResponse:
    return raw(body, headers=usage.headers(request, outcome.record), content_type="application/json")
