"""The two Sanic applications: the API and /metrics.

Owns: which path leads where, and the OpenAPI document of that. Called by: gateway.py.
"""

from __future__ import annotations

import time
from functools import partial

from sanic import HTTPResponse, Request

from cortex_contracts.wire import anthropic, embeddings, event_streams, openai, rerank, tokens
from cortex_contracts.wire.errors import AnthropicErrorBody
from cortex_contracts.wire.gateway import GatewayHealth, GatewayVersion, ModelCatalogue, ModelEntry
from cortex_contracts.wire.openapi import Route, document
from cortex_contracts.wire.responses import InputTokensRequest, ResponsesRequest
from cortex_contracts.wire.responses_answer import InputTokens, Response
from cortex_gateway.api import fleet
from cortex_gateway.api.fleet import FleetApi
from cortex_gateway.api.health import HealthPage
from cortex_gateway.api.inference import Inference, answer_exception
from cortex_gateway.api.models import Models
from cortex_gateway.api.page import Page
from cortex_gateway.api.version import VERSION, VersionPage
from cortex_gateway.operations import Operations
from cortex_gateway.records.metrics import Metrics
from cortex_gateway.state import State
from cortex_serving.application import App, build
from cortex_serving.openapi_page import OpenApiPage

INFERENCE = (
    Route(
        "POST",
        "/v1/chat/completions",
        "Chat, OpenAI's way",
        openai.ChatRequest,
        openai.ChatCompletion,
        stream=event_streams.CHAT,
    ),
    Route(
        "POST",
        "/v1/completions",
        "Plain text",
        openai.CompletionRequest,
        openai.Completion,
        stream=event_streams.COMPLETION,
    ),
    Route("POST", "/v1/responses", "OpenAI's newer way", ResponsesRequest, Response, stream=event_streams.RESPONSES),
    Route("POST", "/v1/responses/input_tokens", "What a prompt comes to", InputTokensRequest, InputTokens),
    Route(
        "POST",
        "/v1/messages",
        "Chat, Anthropic's way",
        anthropic.MessagesRequest,
        anthropic.Message,
        AnthropicErrorBody,
        stream=event_streams.MESSAGES,
    ),
    Route(
        "POST",
        "/v1/messages/count_tokens",
        "What a prompt comes to",
        anthropic.CountTokensRequest,
        anthropic.TokenCount,
        AnthropicErrorBody,
    ),
    Route("POST", "/v1/embeddings", "Texts as vectors", embeddings.EmbeddingRequest, embeddings.EmbeddingList),
    Route("POST", "/v1/rerank", "Documents by a query", rerank.RerankRequest, rerank.Ranking),
    Route("POST", "/tokenize", "A text's tokens", tokens.TokenizeRequest, tokens.TokenizeAnswer),
    Route("POST", "/detokenize", "Tokens' text", tokens.DetokenizeRequest, tokens.DetokenizeAnswer),
)
PAGES = (
    Route("GET", "/v1/models", "Every declared model and where it stands", response=ModelCatalogue),
    Route("GET", "/v1/models/{model_id}", "One of them", response=ModelEntry),
    Route("GET", "/health", "The gateway and its neurons", response=GatewayHealth),
    Route("GET", "/version", "What the gateway runs with", response=GatewayVersion),
)
_READ = ("GET", "HEAD")  # load balancers ask with the latter


def api(state: State, operations: Operations) -> App:
    """The application of `gateway.listen`."""
    app = build("cortex-gateway", state.started_with.body_limit_mb, partial(answer_exception, state.access_log))
    created = int(time.time())
    inference, models = Inference(state), Models(state, created)
    for route in INFERENCE:
        app.add_route(inference, route.path, methods=["POST"], name=route.path)
    app.add_route(models.all, "/v1/models", _READ, name="models")
    app.add_route(models.one, "/v1/models/<model_id:path>", _READ, name="model")
    app.add_route(HealthPage(state), "/health", _READ, name="health")
    app.add_route(VersionPage(state), "/version", _READ, name="version")
    FleetApi(state, operations, created).add_to(app)
    page = Page()
    app.add_route(page, "/ui", _READ, name="ui")
    app.add_route(page, "/ui/<name:path>", _READ, name="ui_file")
    described = OpenApiPage(lambda: document("cortex gateway", VERSION, [*INFERENCE, *PAGES, *fleet.ROUTES]))
    app.add_route(described, "/openapi.json", name="openapi")
    return app


def metrics_page(metrics: Metrics) -> App:
    """The application of `gateway.metrics_listen`."""
    app = build("cortex-gateway-metrics", body_limit_mb=1)

    async def page(request: Request) -> HTTPResponse:
        body, media_type = metrics.page(request.headers.get("accept", ""))
        return HTTPResponse(body, content_type=media_type)

    app.add_route(page, "/metrics", name="metrics")
    return app
