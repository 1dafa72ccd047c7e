"""Provenance: an operator can tell which release runs, and with which bytes of its files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cortex_serving import provenance


def test_the_release_is_what_the_environment_s_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the line's end; none where there is no file, it is empty, or is not text."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert provenance.release() is None
    (tmp_path / "release").write_text("1.2.0-abc\n")
    assert provenance.release() == "1.2.0-abc"
    (tmp_path / "release").write_text("\n")
    assert provenance.release() is None
    (tmp_path / "release").write_bytes(b"\xff\xfe")
    assert provenance.release() is None


def test_a_digest_is_what_sha256sum_prints() -> None:
    """Lowercase hex of SHA-256 (of `abc`, FIPS 180-2)."""
    assert provenance.digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
