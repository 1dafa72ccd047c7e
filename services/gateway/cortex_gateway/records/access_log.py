"""The access log: the terminal line of each request, as JSON, in a file of its own.

Owns: the file. Does not own: which fields (api/inference.py). A file that cannot be written fails no request; that is
said once, and again after a reload. Several workers append to one file, a line a write. Called by: api, gateway.py (on
SIGHUP, which logrotate sends when it has moved the file).
"""

from __future__ import annotations

import datetime
import os
from typing import Any

import msgspec

from cortex_serving import logs

_CLOSED = -1
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # no FIFO shall hold requests up
_MODE = 0o640
_encode = msgspec.json.Encoder().encode


class AccessLog:
    """The file at `path`; with an empty one there is none."""

    def __init__(self, path: str) -> None:
        self._path, self._descriptor, self._failing = "", _CLOSED, False
        self.reopen(path)

    def reopen(self, path: str) -> None:
        """Go on in the file that is at `path` now."""
        self.close()
        self._path, self._failing = path, False
        if path:
            try:
                self._descriptor = os.open(path, _FLAGS, _MODE)
            except OSError as failure:
                self._cannot(failure)

    def close(self) -> None:
        """Write no more."""
        if self._descriptor != _CLOSED:
            os.close(self._descriptor)
            self._descriptor = _CLOSED

    def write(self, fields: dict[str, Any]) -> None:
        """Append one line."""
        if self._descriptor == _CLOSED:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        try:
            os.write(self._descriptor, _encode({"time": now, **fields}) + b"\n")
        except OSError as failure:
            self._cannot(failure)

    def _cannot(self, failure: OSError) -> None:
        if not self._failing:
            logs.error("access_log_failed", path=self._path, reason=failure.strerror)
        self._failing = True
