"""A service's HTTP surface as an OpenAPI 3.1 document, made from the pydantic shapes that its handlers use.

Called by: the services, with their own table of routes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from cortex_contracts.wire.errors import OpenAIErrorBody

Json = dict[str, Any]
_PATH_PARAMETER = re.compile(r"{(\w+)}")
_JSON = "application/json"
_EVENTS = "text/event-stream"
_SCHEMA_REF = "#/components/schemas/{model}"


@dataclass(frozen=True, slots=True)
class EventStream:
    """What the data of a stream's events may be: JSON of one of these shapes, and at its end the word `last`."""

    shapes: tuple[type[BaseModel], ...]
    last: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. A `{name}` in `path` is a parameter; it may hold slashes, as model ids do."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    summary: str
    request: type[BaseModel] | None = None
    response: type[BaseModel] | None = None
    error: type[BaseModel] = OpenAIErrorBody
    status: int = 200
    stream: EventStream | None = None  # may answer with server-sent events as well
    media_type: str = _JSON  # of the answer
    query: type[BaseModel] | None = None


class _Shapes(GenerateJsonSchema):
    """Answers are sent with their defaults: what is absent of them is what their shape leaves out."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        if self.mode == "serialization" and field["type"] == "model-field":
            return field.get("serialization_exclude_if") is None
        return super().field_is_required(field, total)


def document(title: str, version: str, routes: Sequence[Route]) -> Json:
    """The OpenAPI document."""
    shapes = _shapes(routes)
    refs, definitions = models_json_schema(shapes, ref_template=_SCHEMA_REF, schema_generator=_Shapes)
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {"schemas": definitions.get("$defs", {})},
    }


def _shapes(routes: Iterable[Route]) -> list[tuple[type[BaseModel], JsonSchemaMode]]:
    wanted: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {}
    for route in routes:
        if route.request is not None:
            wanted[route.request, "validation"] = None
        for shape in (route.response, route.error, *(route.stream.shapes if route.stream is not None else ())):
            if shape is not None:
                wanted[shape, "serialization"] = None
    return list(wanted)


# What models_json_schema gives: a reference for a shape and the direction that it goes.
Refs = Mapping[Any, Json]


def _operation(route: Route, refs: Refs) -> Json:
    errors = _content({_JSON: refs[route.error, "serialization"]})
    operation: Json = {
        "summary": route.summary,
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").rstrip("_"),
        "responses": {
            str(route.status): {"description": "The answer"} | _content(_answers(route, refs)),
            "4XX": {"description": "The request cannot be served as it is"} | errors,
            "5XX": {"description": "The request may be tried again, after Retry-After where that is sent"} | errors,
        },
    }
    if parameters := [*_parameters(route.path), *_query(route.query)]:
        operation["parameters"] = parameters
    if route.request is not None:
        operation["requestBody"] = {"required": True} | _content({_JSON: refs[route.request, "validation"]})
    return operation


def _answers(route: Route, refs: Refs) -> dict[str, Json]:
    shape = {"type": "string"} if route.response is None else refs[route.response, "serialization"]
    answers = {route.media_type: shape} if route.response is not None or route.media_type != _JSON else {}
    return answers | ({} if route.stream is None else {_EVENTS: _event(route.stream, refs)})


def _event(stream: EventStream, refs: Refs) -> Json:
    """One event: OpenAPI 3.1 has no words for a whole stream, and tools read the schema of this media type so."""
    shapes = [refs[shape, "serialization"] for shape in stream.shapes]
    data: Json = {"type": "string", "contentMediaType": _JSON, "contentSchema": {"anyOf": shapes}}
    if stream.last is not None:
        data = {"anyOf": [{"const": stream.last}, data]}
    return {
        "type": "object",
        "description": "One event; others are comments that keep the connection alive",
        "properties": {"event": {"type": "string"}, "data": data},
        "required": ["data"],
    }


def _content(media: dict[str, Json]) -> Json:
    return {"content": {media_type: {"schema": schema} for media_type, schema in media.items()}} if media else {}


def _parameters(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PATH_PARAMETER.findall(path)
    ]


def _query(shape: type[BaseModel] | None) -> list[Json]:
    if shape is None:
        return []
    schema = shape.model_json_schema()
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": of}
        for name, of in schema["properties"].items()
    ]
