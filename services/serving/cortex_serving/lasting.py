"""Imports that last as long as the process does, and are not looked through for garbage.

Called by: whoever imports much at once: the services' command lines, and what engines are forked from.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting_imports() -> Iterator[None]:
    """To look for garbage among what is imported within, while it is, takes a tenth of that time; and afterwards, a
    moment of every full collection and, in a forked process, a copy of its pages."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
