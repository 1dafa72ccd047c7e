"""What a service puts off until somebody asks, and what it does once for good."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from sanic import Request

from cortex_serving.lasting import lasting_imports
from cortex_serving.openapi_page import OpenApiPage


@pytest.fixture
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


async def test_a_page_is_described_when_it_is_first_asked_for() -> None:
    """And not again: it takes as long as half of a gateway's imports."""
    asked: list[int] = []

    def describe() -> dict[str, Any]:
        asked.append(1)
        return {"openapi": "3.1.0"}

    page = OpenApiPage(describe)
    assert asked == []
    answers = [await page(cast("Request", None)) for _ in range(2)]
    assert asked == [1]
    assert [json.loads(answer.body or b"") for answer in answers] == [{"openapi": "3.1.0"}] * 2


@pytest.mark.usefixtures("_thawed")
def test_what_lasts_is_not_looked_through() -> None:
    """Neither while it is imported nor later; garbage that comes afterwards is found as ever."""
    before = gc.get_freeze_count()
    with lasting_imports():
        assert not gc.isenabled()
        kept: list[list[int]] = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(kept)


@pytest.mark.usefixtures("_thawed")
def test_an_import_that_fails_leaves_the_collector_on() -> None:
    """A command that says what is not installed goes on to its end."""
    with pytest.raises(ModuleNotFoundError), lasting_imports():
        raise ModuleNotFoundError("none")
    assert gc.isenabled()
