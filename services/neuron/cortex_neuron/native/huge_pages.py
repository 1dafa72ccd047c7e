"""Memory in pages of 2 MiB, where Linux gives them.

Owns: asking for it, and cutting it into pieces. Does not own: what lies in it. Called by: native.matrices and
engine.kv_cache.

A step reads all weights once, and each page of 4 KiB is looked up, and ends the processor's reading ahead. Anonymous
memory is in large pages where the host allows it (`transparent_hugepage/enabled` is `always` or, as distributions have
it, `madvise`) and has some in one piece; else it is in small ones, and all is as it was.
"""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
from numpy.typing import NDArray

_PAGE = 2 << 20
_LINE = 64  # of the processor's cache


class HugePages:
    """Pieces of large memory, one after the other, from so many bytes at a time. None is given back before all are."""

    def __init__(self, at_once: int = 64 << 20) -> None:
        self._at_once = at_once
        self._left = np.zeros(0, np.uint8)

    def take(self, num_bytes: int) -> NDArray[np.uint8]:
        """A piece at the beginning of a line; 0 until it is written."""
        wanted = -(-num_bytes // _LINE) * _LINE
        if len(self._left) < wanted:
            self._left = _huge(max(wanted, self._at_once))
        piece, self._left = self._left[:num_bytes], self._left[wanted:]
        return piece


def _huge(num_bytes: int) -> NDArray[np.uint8]:
    """From the beginning of a page; what is not written to is not there."""
    size = -(-num_bytes // _PAGE) * _PAGE + _PAGE
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    first = -whole.ctypes.data % _PAGE
    return whole[first : first + num_bytes]
