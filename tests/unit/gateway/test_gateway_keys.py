"""Who calls, by the headers of a request."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from cortex_contracts.inventory.clients import Allowance, KeyEntry
from cortex_contracts.inventory.files import KeysFile
from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.errors import ModelNotFound, NotAllowed, Unauthenticated
from cortex_dialects.dialect import Dialect
from cortex_gateway.admission import limits
from cortex_gateway.admission.keys import Keys, key_clashes, unknown_models
from cortex_gateway.admission.ledger import Used
from cortex_gateway.catalogue import Catalogue

KEY, OTHER, ADMIN = "the-key-of-alice", "the-key-of-bob", "the-key-of-the-operators"
MODELS = Catalogue.of(
    tuple(Model(id=name, source="-", vram_mb=1, aliases=(f"{name}-alias",)) for name in ("small", "large"))
)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def entry(name: str, key: str, **allowance: Any) -> KeyEntry:
    return KeyEntry(name=name, sha256=digest(key), **allowance)


def keys(*entries: KeyEntry, **fields: Any) -> Keys:
    return Keys.of(KeysFile(keys=entries, **fields), MODELS)


ALICE, BOB = entry("alice", KEY), entry("bob", OTHER, models=("small-alias",), requests_per_minute=1)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY} "},
        {"x-api-key": KEY},
        {"authorization": "Basic abc", "x-api-key": KEY},
        {"authorization": "Bearer an-old-one", "x-api-key": KEY},
    ],
)
def test_a_key_is_found_where_sdks_put_it(headers: dict[str, str]) -> None:
    """OpenAI's send the one header, Anthropic's the other or both."""
    assert keys(ALICE, BOB).client(headers).name == "alice"


@pytest.mark.parametrize(
    ("anonymous", "declared", "headers", "served"),
    [
        ("auto", False, {}, True),
        ("auto", False, {"authorization": "Bearer whatever"}, True),
        ("auto", True, {}, False),
        ("auto", True, {"x-api-key": "wrong"}, False),
        ("allow", True, {}, True),
        ("allow", True, {"authorization": "Bearer "}, True),
        ("allow", True, {"x-api-key": "wrong"}, False),
        ("refuse", False, {}, False),
        ("refuse", False, {"x-api-key": "wrong"}, False),
    ],
)
def test_who_has_no_key_is_served_as_declared(
    anonymous: str, declared: bool, headers: dict[str, str], served: bool
) -> None:
    """A wrong key is never taken for none where there are keys; its owner shall learn of it."""
    known = keys(*([ALICE] if declared else []), anonymous=anonymous)
    if served:
        assert known.client(headers).name == "anonymous"
        return
    with pytest.raises(Unauthenticated) as refused:
        known.client(headers)
    assert "wrong" not in refused.value.message


def test_a_key_is_no_bytes_that_break_the_digest() -> None:
    """Headers may hold what is no UTF-8."""
    with pytest.raises(Unauthenticated):
        keys(ALICE).client({"x-api-key": "\udcff\u20ac"})


def test_an_allow_list_holds_for_every_name_of_a_model_and_hides_the_others() -> None:
    """403 for what is declared, 404 for what is not, and neither tells what else there is."""
    bob = keys(ALICE, BOB).client({"x-api-key": OTHER})
    assert bob.resolve("small").id == bob.resolve("small-alias").id == "small"
    assert list(bob.allowed.models) == ["small"]
    for name in ("large", "large-alias"):
        with pytest.raises(NotAllowed):
            bob.resolve(name)
    with pytest.raises(ModelNotFound) as unknown:
        bob.resolve("huge")
    assert "small" in unknown.value.message
    assert "large" not in unknown.value.message


def test_only_clients_with_limits_are_counted() -> None:
    """Who has none costs nothing."""
    known = keys(ALICE, BOB)
    assert known.client({"x-api-key": KEY}).account == 0
    assert known.accounts() == {known.client({"x-api-key": OTHER}).account}
    assert keys(anonymous_allowance=Allowance(concurrent_requests=1)).accounts() != {0}


def test_the_admin_key_opens_the_operator_api_and_no_other_does() -> None:
    """Each refusal says which it is: no admin key here, none sent, a client's, a wrong one."""
    known = keys(ALICE, admin_sha256=digest(ADMIN))
    known.check_operator({"authorization": f"Bearer {ADMIN}"})
    known.check_operator({"x-api-key": ADMIN})
    for headers, refusal in (
        ({}, Unauthenticated),
        ({"x-api-key": "wrong"}, Unauthenticated),
        ({"x-api-key": KEY}, NotAllowed),
    ):
        with pytest.raises(refusal):
            known.check_operator(headers)
    with pytest.raises(NotAllowed, match="gateway_admin_key"):
        keys(ALICE).check_operator({"authorization": f"Bearer {ADMIN}"})


@pytest.mark.parametrize("fields", [{}, {"anonymous": "allow"}, {"anonymous": "refuse"}])
def test_with_the_admin_key_the_operator_asks_whom_nothing_limits(fields: dict[str, Any]) -> None:
    """Every model, no account, under one name; also where other keys, or none, would count as no key."""
    for declared in ([], [ALICE, BOB]):
        known = keys(*declared, admin_sha256=digest(ADMIN), anonymous_allowance=Allowance(models=("small",)), **fields)
        for headers in ({"x-api-key": ADMIN}, {"authorization": f"Bearer {ADMIN}"}):
            operator = known.client(headers)
            assert (operator.name, operator.account, operator.allowance) == ("operator", 0, Allowance())
            assert [operator.resolve(name).id for name in ("small", "large")] == ["small", "large"]
        assert "operator" in known.names()


def test_without_an_admin_key_nobody_is_the_operator() -> None:
    """What is sent is then a key like any other."""
    with pytest.raises(Unauthenticated):
        keys(ALICE).client({"x-api-key": ADMIN})


def test_what_is_there_twice_or_nowhere_is_a_fault_of_the_file() -> None:
    """Names, keys and models (case L11)."""
    file = KeysFile(
        keys=(
            ALICE,
            entry("alice", OTHER),
            entry("carol", KEY),
            entry("anonymous", "x" * 20),
            entry("dave", ADMIN),
            entry("operator", "y" * 20),
        ),
        admin_sha256=digest(ADMIN),
        anonymous_allowance=Allowance(models=("smal",)),
    )
    assert [line.partition(":")[0] for line in key_clashes(file)] == [
        "keys.1.name",
        "keys.2.sha256",
        "keys.3.name",
        "keys.4.sha256",
        "keys.5.name",
    ]
    assert list(unknown_models(file, MODELS)) == ["anonymous_allowance.models.0: 'smal' is no model of models.toml"]


@pytest.mark.parametrize(
    ("dialect", "told"),
    [
        (
            Dialect.OPENAI,
            {
                "x-ratelimit-limit-requests": "5",
                "x-ratelimit-remaining-requests": "3",
                "x-ratelimit-reset-requests": "60.5s",
                "x-ratelimit-limit-tokens": "100",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "12s",
            },
        ),
        (
            Dialect.ANTHROPIC,
            {
                "anthropic-ratelimit-requests-limit": "5",
                "anthropic-ratelimit-requests-remaining": "3",
                "anthropic-ratelimit-requests-reset": "2023-11-14T22:14:20Z",
                "anthropic-ratelimit-tokens-limit": "100",
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2023-11-14T22:13:32Z",
            },
        ),
    ],
)
def test_what_is_left_is_told_in_the_words_of_the_dialect(dialect: Dialect, told: dict[str, str]) -> None:
    """More tokens than the limit may have been used: none are left then, not fewer."""
    allowance = Allowance(requests_per_minute=5, tokens_per_minute=100)
    assert limits.headers(dialect, allowance, Used(2, 130, 1, 9), (60.5, 12.0), 1_700_000_000.0) == told
    assert limits.headers(dialect, Allowance(concurrent_requests=1), Used(0, 0, 0, 0), (0.0, 0.0), 0.0) == {}
