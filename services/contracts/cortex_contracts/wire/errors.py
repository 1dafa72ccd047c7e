"""Every error a client of cortex can meet, and the envelope of each dialect.

Owns: the tree below, its stable `code`s, and the JSON bodies. Does not own: where errors are raised.
Called by: both services, which turn a CortexError into HTTP in one place each.

    CortexError                         500 internal_error
    ├── InvalidRequest                  400 invalid_request
    │   ├── InvalidJson                 400 invalid_json
    │   ├── InvalidParameter            400 invalid_parameter        (param)
    │   ├── UnsupportedParameter        400 unsupported_parameter    (param)
    │   ├── ContextLengthExceeded       400 context_length_exceeded
    │   └── ImagesNotSupported          400 images_not_supported
    ├── Unauthenticated                 401 invalid_api_key
    ├── NotAllowed                      403 not_allowed
    ├── ModelNotFound                   404 model_not_found
    ├── UnknownNeuron                   404 unknown_neuron
    ├── RouteNotFound                   404 route_not_found
    ├── MethodNotAllowed                405 method_not_allowed
    ├── ModelNotLoaded                  409 model_not_loaded
    ├── ModelBusy                       409 model_busy               (Retry-After)
    ├── BodyTooLarge                    413 body_too_large
    ├── CacheTooSmall                   413 kv_cache_exceeded
    ├── UnsupportedMediaType            415 unsupported_media_type
    ├── TemplateRenderFailed            422 template_render_failed
    ├── UnsupportedArchitecture         422 unsupported_architecture
    ├── LimitExceeded                   429 rate_limit_exceeded      (Retry-After)
    │   └── TooManyAtOnce               429 concurrency_limit_exceeded
    ├── Unavailable                     503 unavailable              (Retry-After)
    │   ├── ModelLoading                503 model_loading
    │   ├── ModelRecovering             503 model_recovering
    │   ├── ModelFailed                 503 model_failed
    │   ├── NoHealthyNeuron             503 no_healthy_neuron
    │   ├── NoCapacity                  503 no_capacity
    │   ├── QueueFull                   503 queue_full
    │   ├── Draining                    503 draining
    │   ├── ShuttingDown                503 shutting_down
    │   └── CudaUnavailable             503 cuda_unavailable
    ├── UpstreamBroken                  502 upstream_broken
    ├── UpstreamTimeout                 504 upstream_timeout
    └── EngineFailed                    500 engine_failed
        ├── GroupDied                   500 group_died               (Retry-After)
        └── NonFiniteLogits             500 non_finite_logits
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ValidationError

from cortex_contracts.wire.shape import LeftOut


class CortexError(Exception):
    """Something a client is told. `retry_after_s` is set where asking again later helps."""

    status = 500
    code = "internal_error"
    default_retry_after_s: int | None = None

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = self.default_retry_after_s if retry_after_s is None else retry_after_s


class InvalidRequest(CortexError):
    status, code = 400, "invalid_request"


class InvalidJson(InvalidRequest):
    code = "invalid_json"


class InvalidParameter(InvalidRequest):
    code = "invalid_parameter"


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class ImagesNotSupported(InvalidRequest):
    code = "images_not_supported"


class Unauthenticated(CortexError):
    status, code = 401, "invalid_api_key"


class NotAllowed(CortexError):
    status, code = 403, "not_allowed"


class ModelNotFound(CortexError):
    status, code = 404, "model_not_found"


class UnknownNeuron(CortexError):
    status, code = 404, "unknown_neuron"


class RouteNotFound(CortexError):
    status, code = 404, "route_not_found"


class MethodNotAllowed(CortexError):
    status, code = 405, "method_not_allowed"


class ModelNotLoaded(CortexError):
    status, code = 409, "model_not_loaded"


class ModelBusy(CortexError):
    status, code = 409, "model_busy"
    default_retry_after_s = 5


class BodyTooLarge(CortexError):
    status, code = 413, "body_too_large"


class CacheTooSmall(CortexError):
    status, code = 413, "kv_cache_exceeded"


class UnsupportedMediaType(CortexError):
    status, code = 415, "unsupported_media_type"


class TemplateRenderFailed(CortexError):
    status, code = 422, "template_render_failed"


class UnsupportedArchitecture(CortexError):
    status, code = 422, "unsupported_architecture"


class LimitExceeded(CortexError):
    status, code = 429, "rate_limit_exceeded"
    default_retry_after_s = 1


class TooManyAtOnce(LimitExceeded):
    code = "concurrency_limit_exceeded"


class Unavailable(CortexError):
    status, code = 503, "unavailable"
    default_retry_after_s = 5


class ModelLoading(Unavailable):
    code = "model_loading"


class ModelRecovering(Unavailable):
    code = "model_recovering"


class ModelFailed(Unavailable):
    code = "model_failed"
    default_retry_after_s = 30


class NoHealthyNeuron(Unavailable):
    code = "no_healthy_neuron"


class NoCapacity(Unavailable):
    code = "no_capacity"
    default_retry_after_s = 10


class QueueFull(Unavailable):
    code = "queue_full"
    default_retry_after_s = 2


class Draining(Unavailable):
    code = "draining"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class CudaUnavailable(Unavailable):
    code = "cuda_unavailable"
    default_retry_after_s = 60


class UpstreamBroken(CortexError):
    status, code = 502, "upstream_broken"


class UpstreamTimeout(CortexError):
    status, code = 504, "upstream_timeout"


class EngineFailed(CortexError):
    code = "engine_failed"


class GroupDied(EngineFailed):
    code = "group_died"
    default_retry_after_s = 5


class NonFiniteLogits(EngineFailed):
    code = "non_finite_logits"


def by_code(code: object) -> type[CortexError] | None:
    """The error that has this code, for who reads an envelope."""
    kinds = [CortexError]
    for kind in kinds:  # grows while it is walked
        kinds += kind.__subclasses__()
    return next((kind for kind in kinds if kind.code == code), None)


class OpenAIErrorDetail(BaseModel):
    message: str
    type: str
    code: str
    param: str | None = None


class OpenAIErrorBody(BaseModel):
    """OpenAI's envelope; also what an SSE `data: {"error": …}` event carries."""

    error: OpenAIErrorDetail


class ResponsesErrorEvent(BaseModel):
    """The last event of a stream of /v1/responses that has failed: as OpenAI documents it, and with `error`, as OpenAI
    sends it and its SDK looks for it."""

    type: Literal["error"] = "error"
    code: str
    message: str
    param: str | None = None
    error: OpenAIErrorDetail
    sequence_number: int


class AnthropicErrorDetails(BaseModel):
    """What Anthropic's SDKs act on, where an error is one that they know a way round."""

    error_code: str
    unsupported: list[str]


class AnthropicErrorDetail(BaseModel):
    type: str
    message: str
    code: str
    details: AnthropicErrorDetails | None = LeftOut


class AnthropicErrorBody(BaseModel):
    """Anthropic's envelope; `code` is ours, the SDK ignores it."""

    type: Literal["error"] = "error"
    error: AnthropicErrorDetail


_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


# Tool runners of Anthropic's SDKs ask for `thread`, a conversation kept at the server. On this they ask again without.
_NO_THREADS = AnthropicErrorDetails(error_code="thread_unsupported_request", unsupported=["thread"])


def openai_body(error: CortexError) -> OpenAIErrorBody:
    """The OpenAI envelope of an error."""
    fallback = "invalid_request_error" if error.status < 500 else "server_error"
    kind = _OPENAI_TYPES.get(error.status, fallback)
    return OpenAIErrorBody(
        error=OpenAIErrorDetail(message=error.message, type=kind, code=error.code, param=error.param)
    )


def anthropic_body(error: CortexError) -> AnthropicErrorBody:
    """The Anthropic envelope of an error."""
    fallback = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _ANTHROPIC_TYPES.get(error.status, fallback)
    details = _NO_THREADS if isinstance(error, UnsupportedParameter) and error.param == "thread" else None
    detail = AnthropicErrorDetail(type=kind, message=error.message, code=error.code, details=details)
    return AnthropicErrorBody(error=detail)


def responses_event(detail: object, number: int) -> ResponsesErrorEvent:
    """The event of what an OpenAI envelope has under `error`, at its place in the stream."""
    try:
        error = OpenAIErrorDetail.model_validate(detail)
    except ValidationError:
        error = openai_body(UpstreamBroken("a neuron has failed without words")).error
    return ResponsesErrorEvent(
        code=error.code, message=error.message, param=error.param, error=error, sequence_number=number
    )
