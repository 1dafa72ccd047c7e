"""Logs: one JSON object a line on standard error, with a time, a level, an event and its fields.

Owns: the format. Does not own: which fields (each service says). Secrets are never passed in.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

_LOGGER = logging.getLogger("cortex")
_encode = msgspec.json.Encoder(enc_hook=str).encode


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; fields come in `extra={"fields": …}`, and `always` stand in every line."""

    def __init__(self, always: Mapping[str, Any]) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": f"{_second(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.name != _LOGGER.name:
            line["logger"] = record.name
        line.update(self._always)
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return _encode(line).decode()
        except (TypeError, ValueError):  # half a surrogate pair in a text, a key that is none in JSON
            return json.dumps(line, ensure_ascii=True, default=str)


@lru_cache(maxsize=1)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def configure(level: int = logging.INFO, **always: Any) -> None:
    """Send every log of this process, libraries' too, through JsonFormatter to standard error."""
    # What no line shows need not be found out for each: the caller's place in the code, the thread, the process.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(JsonFormatter(always))
    logging.basicConfig(level=level, handlers=[output], force=True)
    for name in ("sanic.root", "sanic.error", "sanic.server", "sanic.access"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.WARNING)


def info(event: str, /, **fields: Any) -> None:
    """One line at level info."""
    _LOGGER.info(event, extra={"fields": fields})


def warning(event: str, /, **fields: Any) -> None:
    """One line at level warning: something an operator may want to look at."""
    _LOGGER.warning(event, extra={"fields": fields})


def error(event: str, /, *, exception: BaseException | None = None, **fields: Any) -> None:
    """One line at level error, with the traceback of `exception`."""
    _LOGGER.error(event, extra={"fields": fields}, exc_info=exception)
