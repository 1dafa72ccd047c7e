"""What a running program was made of, for its `GET /version`: its release, and digests of the files it runs with.

Owns: what those are. Does not own: when a file is taken up (the services). Called by: gateway and neuron.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

_FILE = "release"


def release() -> str | None:
    """The text of the file `release` in this environment's folder (sys.prefix); None where there is none."""
    try:
        return (Path(sys.prefix) / _FILE).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def digest(content: bytes) -> str:
    """SHA-256 of a file's bytes, in lowercase hex, as `sha256sum` prints it."""
    return hashlib.sha256(content).hexdigest()
