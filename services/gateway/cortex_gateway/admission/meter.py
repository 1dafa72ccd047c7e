"""Counting what clients use against what they may.

Owns: the clock, the seat of a request in the ledger (case L9), and the refusal. Does not own: the decision (limits.py),
the counts (ledger.py). Called by: api (a request begins, a request ends), gateway.py (other keys).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from cortex_contracts.wire.errors import LimitExceeded, TooManyAtOnce
from cortex_gateway.admission.keys import Client, Keys
from cortex_gateway.admission.ledger import SECONDS, Ledger, Used
from cortex_gateway.admission.limits import Limit, exceeded, headers
from cortex_gateway.exchange import Exchange

_LONGEST_WAIT_S = 60  # what OpenAI's SDKs take at its word; told of more, many of them ask again within the second


class Meter:
    """One gateway's. `refused` is told the client and the limit of each refusal."""

    def __init__(self, ledger: Ledger, keys: Keys, refused: Callable[[str, str], None]) -> None:
        self._ledger, self._refused = ledger, refused
        self.take(keys)

    def take(self, keys: Keys) -> None:
        """Count by these keys from now on."""
        self._ledger.declare(keys.accounts())

    def begin(self, exchange: Exchange, client: Client) -> None:
        """Count a request that begins, and note what its answer says of the limits. Raises LimitExceeded."""
        if not client.account:
            return
        now, account = time.monotonic(), client.account
        second = int(now)
        used = self._ledger.used(account, second)
        limit = exceeded(client.allowance, used)
        if limit is not None:
            requests_back = self._ledger.requests_fall_to(0, account, second)
            exchange.limit_headers = _headers(exchange, client, used, requests_back, now)
            self._refused(client.name, limit)
            raise self._refusal(client, limit, now)
        self._ledger.begin(account, second)
        exchange.account = account
        used = used._replace(requests=used.requests + 1)
        exchange.limit_headers = _headers(exchange, client, used, second + SECONDS, now)

    def end(self, exchange: Exchange) -> None:
        """A request is over: its seat is free, and its tokens are charged, also where the client has left."""
        if exchange.account:
            self._ledger.end(exchange.account, exchange.tokens_spent(), int(time.monotonic()))
            exchange.account = 0

    def _refusal(self, client: Client, limit: Limit, now: float) -> LimitExceeded:
        allowance, account, second = client.allowance, client.account, int(now)
        if limit is Limit.CONCURRENT:
            return TooManyAtOnce(f"{client.name} may have {allowance.concurrent_requests} requests under way at once")
        if limit is Limit.REQUESTS:
            most = allowance.requests_per_minute or 0
            free = self._ledger.requests_fall_to(most - 1, account, second)
        else:
            most = allowance.tokens_per_minute or 0
            free = self._ledger.tokens_fall_to(most - 1, account, second)
        wait_s = min(_LONGEST_WAIT_S, max(1, math.ceil(free - now)))
        message = f"{client.name} may use {most} {limit} a minute; try again in {wait_s} s"
        return LimitExceeded(message, retry_after_s=wait_s)


def _headers(exchange: Exchange, client: Client, used: Used, requests_back: int, now: float) -> dict[str, str]:
    resets_s = (max(0.0, requests_back - now), max(0.0, used.charged + SECONDS - now) if used.tokens else 0.0)
    return headers(exchange.dialect, client.allowance, used, resets_s, time.time())
