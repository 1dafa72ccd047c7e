"""A neuron's answer that is wanted whole, or not at all.

Owns: its body, and the bound of that. Does not own: the bytes on the wire (connection.py), or what is in them
(probe.py, which calls this).
"""

from __future__ import annotations

from collections.abc import Callable

_MOST_BYTES = 8 * 2**20


class Reply:
    """Ends in `answered`, with status and body, or in `lost`.

    A body that nothing but the connection's end would bound is lost: it may have been cut off.
    """

    __slots__ = ("_answered", "_body", "_lost", "_num_bytes", "_over", "headers", "status")

    def __init__(self, answered: Callable[[int, bytes], None], lost: Callable[[str], None]) -> None:
        self.status, self.headers = 0, dict[str, str]()
        self._answered, self._lost = answered, lost
        self._body: list[bytes] = []
        self._num_bytes, self._over = 0, False

    def came(self, piece: bytes) -> None:
        self._body.append(piece)
        self._num_bytes += len(piece)
        if self._num_bytes > _MOST_BYTES:
            self.lost(f"the answer has more than {_MOST_BYTES} bytes")

    def ended(self) -> None:
        if "content-length" not in self.headers and "transfer-encoding" not in self.headers:
            self.lost("the answer does not say where it ends")
        elif not self._over:
            self._over = True
            self._answered(self.status, b"".join(self._body))

    def lost(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._body.clear()
            self._lost(reason)

    def wake(self) -> None:
        """Nobody waits for a part."""
