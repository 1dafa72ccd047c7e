"""What each client has under way and has used in the last minute, summed over the workers of one gateway.

Owns: the counts, in one flat buffer that may be a mapping shared by the workers, and how they age. Does not own: what a
client may use (limits.py), who is a client (keys.py). No clock: `second` is a whole second of the monotonic clock,
which all processes of a host share. Called by: meter.py (counts), processes/workers.py (shares it).

    buffer   a column a worker, of 64-bit words
    column   version, accounts [ROWS], rows [ROWS]; only its worker writes there, so no lock is needed
    row      head, running, charged, requests a second [SECONDS], tokens a second [SECONDS]

A row's counts are rings by second, of which the newest is `head`. The version changes with the accounts. SECONDS is one
more than the window has, for the second that is not over: any 60 s that one looks at lie within those that are summed.
Workers that begin requests in the same microseconds do not see each other's, so together they may exceed a limit by one
request for each worker but the first.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator
from typing import NamedTuple

from cortex_contracts.inventory.clients import MOST_KEYS

WINDOW_S = 60
SECONDS = WINDOW_S + 1
ROWS = 2 * (MOST_KEYS + 1)  # each key's and anonymous', and those of keys that are gone while they end

_HEAD, _RUNNING, _CHARGED, _REQUESTS = range(4)
_TOKENS = _REQUESTS + SECONDS
_ROW = _TOKENS + SECONDS
_ACCOUNTS = 1
_ROWS = _ACCOUNTS + ROWS
_COLUMN = _ROWS + ROWS * _ROW
_WORD = 8


class Used(NamedTuple):
    """What an account has used within the window. `charged` is the second of its last tokens, 0 without any."""

    requests: int
    tokens: int
    running: int
    charged: int


class Ledger:
    """The counts as one worker sees them: all columns are read, its own is written."""

    def __init__(self, buffer: mmap.mmap | bytearray, workers: int = 1, worker: int = 0) -> None:
        self._words = memoryview(buffer).cast("q")
        self._worker = worker
        self._versions = [-1] * workers
        self._columns: list[dict[int, int]] = [{} for _ in range(workers)]  # where each account's row begins
        self._own = self._columns[worker]

    @staticmethod
    def size(workers: int) -> int:
        """Bytes of the buffer for so many workers; zeroed at first."""
        return workers * _COLUMN * _WORD

    def declare(self, accounts: Collection[int]) -> None:
        """Have rows for these accounts, and for no other but those with requests under way."""
        words, start = self._words, self._worker * _COLUMN
        numbers = {account: number for number, account in enumerate(self._accounts(self._worker)) if account}
        for account, number in list(numbers.items()):
            if account not in accounts and not words[start + _ROWS + number * _ROW + _RUNNING]:
                words[start + _ACCOUNTS + number] = 0
                del numbers[account]
        free = iter(set(range(ROWS)).difference(numbers.values()))
        for account in set(accounts).difference(numbers):
            number = next(free)
            row = start + _ROWS + number * _ROW
            words[row : row + _ROW] = memoryview(bytes(_ROW * _WORD)).cast("q")
            words[start + _ACCOUNTS + number] = account
        words[start] += 1
        self._own = self._columns[self._worker] = self._read_column(self._worker)
        self._versions[self._worker] = words[start]

    def clear(self) -> None:
        """Who wrote here before is dead: nothing is under way any more. What it has counted stays for its minute."""
        for at in self._read_column(self._worker).values():
            self._words[at + _RUNNING] = 0

    def begin(self, account: int, second: int) -> None:
        """A request of the account has begun."""
        at = self._own[account]
        self._advance(at, second)
        self._words[at + _RUNNING] += 1
        self._words[at + _REQUESTS + second % SECONDS] += 1

    def end(self, account: int, tokens: int, second: int) -> None:
        """It is over and has used `tokens`."""
        at = self._own[account]
        self._words[at + _RUNNING] -= 1
        if tokens > 0:
            self._advance(at, second)
            self._words[at + _TOKENS + second % SECONDS] += tokens
            self._words[at + _CHARGED] = second

    def used(self, account: int, second: int) -> Used:
        """What the account has used, over all workers."""
        words = self._words
        requests = tokens = running = charged = 0
        for at in self._rows(account):
            running += words[at + _RUNNING]
            head = words[at + _HEAD]
            if head <= second - SECONDS:
                continue
            requests += sum(words[at + _REQUESTS : at + _TOKENS])
            tokens += sum(words[at + _TOKENS : at + _ROW])
            charged = max(charged, words[at + _CHARGED])
            for aged in range(head - WINDOW_S, second - WINDOW_S):
                requests -= words[at + _REQUESTS + aged % SECONDS]
                tokens -= words[at + _TOKENS + aged % SECONDS]
        return Used(requests, tokens, running, charged)

    def requests_fall_to(self, most: int, account: int, second: int) -> int:
        """The second from which no more than `most` requests are in the window, if no other comes."""
        return self._falls_to(most, account, second, _REQUESTS)

    def tokens_fall_to(self, most: int, account: int, second: int) -> int:
        """The second from which no more than `most` tokens are in the window, if no other comes."""
        return self._falls_to(most, account, second, _TOKENS)

    def _falls_to(self, most: int, account: int, second: int, ring: int) -> int:
        rows = list(self._rows(account))
        left = 0
        for counted in range(second, second - SECONDS, -1):  # the newest first: those that stay longest
            left += sum(self._counted(at, ring, counted) for at in rows)
            if left > most:
                return counted + SECONDS
        return second

    def _counted(self, at: int, ring: int, second: int) -> int:
        head = self._words[at + _HEAD]
        return self._words[at + ring + second % SECONDS] if head - SECONDS < second <= head else 0

    def _advance(self, at: int, second: int) -> None:
        """Make `second` the newest of a row. The aged seconds are emptied first: a reader who comes between errs in
        nothing."""
        words, head = self._words, self._words[at + _HEAD]
        if head < second:
            for fresh in range(max(head + 1, second - WINDOW_S), second + 1):
                words[at + _REQUESTS + fresh % SECONDS] = 0
                words[at + _TOKENS + fresh % SECONDS] = 0
            words[at + _HEAD] = second

    def _rows(self, account: int) -> Iterator[int]:
        words = self._words
        for worker, version in enumerate(self._versions):
            now = words[worker * _COLUMN]
            if now != version:  # its worker has other keys now
                self._columns[worker], self._versions[worker] = self._read_column(worker), now
            if (at := self._columns[worker].get(account)) is not None:
                yield at

    def _read_column(self, worker: int) -> dict[int, int]:
        rows = range(worker * _COLUMN + _ROWS, (worker + 1) * _COLUMN, _ROW)
        return {account: at for account, at in zip(self._accounts(worker), rows, strict=True) if account}

    def _accounts(self, worker: int) -> list[int]:
        start = worker * _COLUMN + _ACCOUNTS
        return self._words[start : start + ROWS].tolist()
