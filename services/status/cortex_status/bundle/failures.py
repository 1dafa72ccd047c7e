"""Why there is no bundle; the message is for the operator, whole."""

from __future__ import annotations


class BundleFailed(Exception):
    """It cannot be built; what was there before is as it was."""
