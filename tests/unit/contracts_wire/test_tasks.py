"""Which routes are for which models."""

from __future__ import annotations

import pytest

from cortex_contracts.wire.errors import InvalidParameter
from cortex_contracts.wire.tasks import check_task, wanted_by


def test_a_route_that_is_not_for_a_model_says_which_is() -> None:
    """With the model's name and its task."""
    with pytest.raises(InvalidParameter, match="m is a model to embed, which /v1/embeddings asks for") as refused:
        check_task("m", "embed", "generate")
    assert refused.value.param == "model"
    check_task("m", "rerank", "rerank")


def test_what_only_counts_is_for_any_model() -> None:
    """A tokenizer is all that it takes."""
    assert [wanted_by(path) for path in ("/tokenize", "/v1/messages/count_tokens")] == [None, None]
    assert [wanted_by(path) for path in ("/v1/messages", "/v1/embeddings")] == ["generate", "embed"]
