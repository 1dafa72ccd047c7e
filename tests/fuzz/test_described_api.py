"""A short look for what `make fuzz-api` looks for at length: answers that a service's own description does not have."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from described_api import ALL_ELSE, CONTROLS, Fleet, closed, examine, fleet

OF_EACH = 3  # requests of each operation


@pytest_asyncio.fixture(scope="module")
async def described() -> AsyncIterator[Fleet]:
    async with fleet() as started:
        yield started


@pytest.mark.parametrize(
    ("service", "paths"),
    [
        pytest.param("gateway", ALL_ELSE, id="gateway"),
        # Of what a model answers the gateway has asked it.
        pytest.param("neuron", ALL_ELSE + "(?!/v1/|/tokenize|/detokenize)", id="neuron"),
        # Last, for they unload the model, and drain.
        pytest.param("gateway", CONTROLS, id="gateway's controls"),
        pytest.param("neuron", CONTROLS, id="neuron's controls"),
    ],
)
async def test_no_request_is_a_server_error_or_has_an_answer_that_is_not_described(
    described: Fleet, service: str, paths: str
) -> None:
    """Requests that are right by the description; documents, and every event of a stream."""
    report = await examine(getattr(described, service), OF_EACH, paths=paths, mode="positive")
    assert report.is_clean, report.text[-4000:]
    assert report.cases > OF_EACH


def test_an_answer_with_a_field_that_is_not_described_would_be_found() -> None:
    """What answers are made of is closed, what requests are made of is as it was."""
    described = {
        "paths": {
            "/x": {
                "post": {
                    "requestBody": {"$ref": "#/components/schemas/Asked"},
                    "responses": {"200": {"$ref": "#/components/schemas/Told"}},
                }
            }
        },
        "components": {
            "schemas": {
                "Told": {"properties": {"more": {"$ref": "#/components/schemas/More"}}},
                "More": {"properties": {}, "additionalProperties": True},
                "Asked": {"properties": {}},
            }
        },
    }
    schemas = closed(described)["components"]["schemas"]
    assert {name: schema.get("additionalProperties") for name, schema in schemas.items()} == {
        "Told": False, "More": True, "Asked": None,
    }  # fmt: skip
