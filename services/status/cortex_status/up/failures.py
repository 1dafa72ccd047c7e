"""Why `cortex up` ends by itself; the message is for the operator, whole."""

from __future__ import annotations


class UpFailed(Exception):
    """It cannot go on; nothing is left running."""
