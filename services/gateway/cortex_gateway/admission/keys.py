"""Who calls: the client that an API key stands for, and whether a caller may operate the fleet.

Owns: finding a key's owner, and what that owner may see of the catalogue. Does not own: how much a client may use
(limits.py), where keys are declared (keys.toml). Pure. Called by: config.py (makes Keys), api (asks).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cortex_contracts.inventory.clients import NO_KEY, OPERATOR, Allowance
from cortex_contracts.inventory.files import KeysFile
from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.errors import NotAllowed, Unauthenticated
from cortex_gateway.catalogue import Catalogue

_BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class Client:
    """A key's owner, or all who come without one. `account` is what the ledger counts it by, 0 without limits."""

    name: str
    account: int
    allowance: Allowance
    everything: Catalogue
    allowed: Catalogue

    def resolve(self, name: str) -> Model:
        """The model it means by `name`. Raises NotAllowed; ModelNotFound, which names only models that it may use."""
        if name not in self.allowed.names and name in self.everything.names:
            raise NotAllowed(f"{self.name} may not use the model {name!r}", param="model")
        return self.allowed.resolve(name)


@dataclass(frozen=True, slots=True)
class Keys:
    """Clients by their keys' digests. `anonymous` is None where requests without a key are refused."""

    clients: Mapping[str, Client]
    anonymous: Client | None
    admin: str | None
    operator: Client

    @classmethod
    def of(cls, file: KeysFile, catalogue: Catalogue) -> Keys:
        """The keys of a file whose models are known to be declared (config.py checks)."""
        served = file.anonymous == "allow" or (file.anonymous == "auto" and not file.keys)
        return cls(
            clients=MappingProxyType({key.sha256: _client(key.name, key.sha256, key, catalogue) for key in file.keys}),
            anonymous=_client(NO_KEY, _digest(NO_KEY), file.anonymous_allowance, catalogue) if served else None,
            admin=file.admin_sha256,
            operator=Client(OPERATOR, 0, Allowance(), everything=catalogue, allowed=catalogue),
        )

    def client(self, headers: Mapping[str, str]) -> Client:
        """Who sends these headers; with the admin key the operator, whom nothing limits. Raises Unauthenticated.

        While no key is declared any is taken for none: SDKs must send one. Where keys are declared, one that is wrong
        never counts as none, so that who mistypes it or lost it learns so.
        """
        digests = [_digest(key) for key in _sent(headers)]
        if self._is_admin(digests):
            return self.operator
        if not self.clients and self.anonymous is not None:
            return self.anonymous
        for digest in digests:
            # The lookup's time may tell of a digest, which nobody can choose: who could aim at one had broken SHA-256.
            if (client := self.clients.get(digest)) is not None:
                return client
        if digests:
            raise Unauthenticated("this gateway knows no such API key")
        if self.anonymous is None:
            raise Unauthenticated("an API key is needed, as `Authorization: Bearer KEY` or `x-api-key: KEY`")
        return self.anonymous

    def check_operator(self, headers: Mapping[str, str]) -> None:
        """Whether the caller may operate the fleet. Raises NotAllowed, Unauthenticated."""
        if self.admin is None:
            raise NotAllowed("the operator API is closed: this gateway has no admin key (gateway_admin_key)")
        digests = [_digest(key) for key in _sent(headers)]
        if self._is_admin(digests):
            return
        if any(digest in self.clients for digest in digests):
            raise NotAllowed("the operator API takes the admin key alone")
        raise Unauthenticated("the operator API needs the admin key, as `Authorization: Bearer KEY`")

    def names(self) -> set[str]:
        """Whom requests may come from."""
        return {NO_KEY, OPERATOR, *(client.name for client in self.clients.values())}

    def accounts(self) -> set[int]:
        """Of every client that has a limit."""
        everybody = [*self.clients.values(), *([self.anonymous] if self.anonymous is not None else [])]
        return {client.account for client in everybody if client.account}

    def _is_admin(self, digests: Iterable[str]) -> bool:
        admin = self.admin
        return admin is not None and any(hmac.compare_digest(digest, admin) for digest in digests)


def unknown_models(file: KeysFile, catalogue: Catalogue) -> Iterator[str]:
    """Models of allow-lists that nobody declares, as lines without the file's name."""
    lists = [("anonymous_allowance", file.anonymous_allowance.models)]
    lists += [(f"keys.{number}", key.models) for number, key in enumerate(file.keys)]
    for place, models in lists:
        for number, name in enumerate(models):
            if name not in catalogue.names:
                yield f"{place}.models.{number}: {name!r} is no model of models.toml"


def key_clashes(file: KeysFile) -> Iterator[str]:
    """Names and keys that are there twice, as lines without the file's name."""
    names: set[str] = {NO_KEY, OPERATOR}
    digests: dict[str, str] = {file.admin_sha256: "admin_sha256"} if file.admin_sha256 else {}
    for number, key in enumerate(file.keys):
        if key.name in names:
            yield f"keys.{number}.name: {key.name!r} is there twice, or what another kind of caller goes by"
        names.add(key.name)
        if (owner := digests.setdefault(key.sha256, key.name)) != key.name:
            yield f"keys.{number}.sha256: is also that of {owner}"


def _client(name: str, digest: str, allowance: Allowance, catalogue: Catalogue) -> Client:
    limits = (allowance.requests_per_minute, allowance.tokens_per_minute, allowance.concurrent_requests)
    # Eight of a digest's bytes tell apart more keys than anybody will ever have.
    account = int.from_bytes(bytes.fromhex(digest)[:8], "big", signed=True) if any(limits) else 0
    allowed = catalogue.only(allowance.models) if allowance.models else catalogue
    return Client(name, account, allowance, everything=catalogue, allowed=allowed)


def _sent(headers: Mapping[str, str]) -> Iterator[str]:
    """The keys of a request: OpenAI's clients send the first, Anthropic's the second or both."""
    authorization = headers.get("authorization", "")
    bearer = authorization[len(_BEARER) :].strip() if authorization[: len(_BEARER)].lower() == _BEARER else ""
    yield from filter(None, (bearer, headers.get("x-api-key", "").strip()))


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
