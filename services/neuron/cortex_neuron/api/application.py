"""The neuron's Sanic application: which path is answered by which handler.

Owns: the one table of routes, which is also what /openapi.json is made from. Called by: daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sanic import Sanic

from cortex_contracts.wire import anthropic, embeddings, event_streams, neuron, openai, rerank, tokens
from cortex_contracts.wire.errors import AnthropicErrorBody
from cortex_contracts.wire.openapi import Route, document
from cortex_contracts.wire.responses import InputTokensRequest, ResponsesRequest
from cortex_contracts.wire.responses_answer import InputTokens, Response
from cortex_neuron.api import control, inference, vectors
from cortex_neuron.api import tokens as token_pages
from cortex_neuron.api.neuron import Neuron
from cortex_serving import application
from cortex_serving.openapi_page import OpenApiPage

_TEXT = "text/plain"

ROUTES: Sequence[tuple[Route, Callable[..., Any]]] = (
    (Route("GET", "/discovery", "What this host is", response=neuron.Discovery), control.discovery),
    (Route("GET", "/health", "What this host is doing", response=neuron.Health), control.health),
    (Route("GET", "/models", "Every model of the catalogue and its state"), control.models),
    (Route("GET", "/models/{model_id}", "One model's state", response=neuron.ModelRow), control.model),
    (
        Route("GET", "/models/{model_id}/endpoint", "Where a loaded model is served", response=neuron.EndpointAnswer),
        control.model,
    ),
    (Route("GET", "/report", "All that a gateway polls for", response=neuron.Report), control.report),
    (Route("POST", "/models/load", "Load a model", neuron.LoadRequest, neuron.StatusAnswer), control.load),
    (Route("POST", "/models/unload", "Unload a model", neuron.UnloadRequest, neuron.StatusAnswer), control.unload),
    (
        Route("POST", "/models/verify", "Have a model answer, loaded first", neuron.VerifyRequest, neuron.VerifyAnswer),
        control.verify,
    ),
    (Route("POST", "/models/pin", "Keep a model from eviction", neuron.PinRequest, neuron.StatusAnswer), control.pin),
    (Route("POST", "/drain", "Take nothing new", response=neuron.StateAnswer), control.drain),
    (Route("POST", "/undrain", "Take requests again", response=neuron.StateAnswer), control.undrain),
    (Route("GET", "/version", "What runs: program, protocol, files", response=neuron.VersionAnswer), control.version),
    (Route("GET", "/metrics", "Prometheus metrics", media_type=_TEXT), control.metrics),
    (Route("GET", "/v1/models", "OpenAI: models", response=openai.ModelList), inference.model_list),
    (Route("GET", "/v1/models/{model_id}", "One of them", response=openai.ModelCard), inference.model_card),
    (
        Route(
            "POST", "/v1/chat/completions", "OpenAI: chat", openai.ChatRequest, openai.ChatCompletion,
            stream=event_streams.CHAT,
        ),
        inference.chat_completions,
    ),
    (
        Route(
            "POST", "/v1/completions", "OpenAI: text", openai.CompletionRequest, openai.Completion,
            stream=event_streams.COMPLETION,
        ),
        inference.completions,
    ),
    (
        Route("POST", "/v1/responses", "OpenAI: responses", ResponsesRequest, Response, stream=event_streams.RESPONSES),
        inference.responses,
    ),
    (
        Route(
            "POST", "/v1/responses/input_tokens", "OpenAI: a response's prompt's tokens", InputTokensRequest,
            InputTokens,
        ),
        token_pages.input_tokens,
    ),
    (
        Route(
            "POST", "/v1/messages", "Anthropic: messages", anthropic.MessagesRequest, anthropic.Message,
            AnthropicErrorBody, stream=event_streams.MESSAGES,
        ),
        inference.messages,
    ),
    (
        Route(
            "POST", "/v1/messages/count_tokens", "Anthropic: a prompt's tokens", anthropic.CountTokensRequest,
            anthropic.TokenCount, AnthropicErrorBody,
        ),
        token_pages.count_tokens,
    ),
    (
        Route(
            "POST", "/v1/embeddings", "OpenAI: texts as vectors", embeddings.EmbeddingRequest, embeddings.EmbeddingList
        ),
        vectors.embeddings,
    ),
    (
        Route("POST", "/v1/rerank", "Documents by a query", rerank.RerankRequest, rerank.Ranking),
        vectors.rerank,
    ),
    (
        Route("POST", "/tokenize", "A text's tokens", tokens.TokenizeRequest, tokens.TokenizeAnswer),
        token_pages.tokenize,
    ),
    (
        Route("POST", "/detokenize", "Tokens' text", tokens.DetokenizeRequest, tokens.DetokenizeAnswer),
        token_pages.detokenize,
    ),
)  # fmt: skip


def build(parts: Neuron) -> Sanic[Any, Any]:
    """The application, ready to be served."""
    app = application.build("cortex-neuron", parts.settings.body_limit_mb, inference.answer_exception)
    app.ctx.neuron = parts
    for route, answer in ROUTES:
        if not route.path.endswith("/endpoint"):  # a model's id has slashes: its route takes the whole rest
            path = route.path.replace("{model_id}", "<model_id:path>")
            app.add_route(answer, path, methods=[route.method], name=answer.__name__)

    described = OpenApiPage(lambda: document("cortex neuron", parts.version, [route for route, _ in ROUTES]))
    app.add_route(described, "/openapi.json", name="openapi")
    return app
