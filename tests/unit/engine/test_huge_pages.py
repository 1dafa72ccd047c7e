"""Weights and caches lie in large pages, each in a place of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cortex_neuron.engine.kv_cache import CacheSize, KVCache
from cortex_neuron.models.loaded import CacheShape
from cortex_neuron.native.huge_pages import HugePages

_PAGE = 2 << 20


@given(sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=20), at_once=st.integers(1, 9000))
def test_pieces_begin_at_lines_hold_zeros_and_do_not_overlap(sizes: list[int], at_once: int) -> None:
    """However much is asked for at once: what is written to one is in no other."""
    memory = HugePages(at_once)
    pieces = [memory.take(size) for size in sizes]
    assert [len(piece) for piece in pieces] == sizes
    assert not any(piece.ctypes.data % 64 or piece.any() for piece in pieces)
    for number, piece in enumerate(pieces):
        piece[:] = number
    assert all((piece == number).all() for number, piece in enumerate(pieces))


def test_large_pages_are_asked_for() -> None:
    """Whether the host has some to give is its own affair; shared memory, which never has, is not what is asked."""
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no large pages")
    piece = HugePages(1).take(8 * _PAGE)
    assert {"hg", "sh"} & _flags_at(piece.ctypes.data) == {"hg"}


def test_layers_of_a_cache_are_apart() -> None:
    """Keys and values of each, all of one memory."""
    cache = KVCache(CacheShape(3, 2, 8, torch.float32), CacheSize(16, 5, 80), torch.device("cpu"))
    layers = [*cache.keys, *cache.values]
    assert {tuple(layer.shape) for layer in layers} == {(5, 16, 2, 8)}
    assert not any(layer.any() for layer in layers)
    for number, layer in enumerate(layers):
        layer.fill_(number)
    assert all((layer == number).all() for number, layer in enumerate(layers))
    assert sum(layer.nbytes for layer in layers) == cache.num_bytes


def _flags_at(address: int) -> set[str]:
    """Linux's words for the mapping that this address is in."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if ends := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(ends[1], 16) <= address < int(ends[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return set(line.split()[1:])
    raise AssertionError(f"no mapping has {address}")
