"""The native kernels keep weights exactly as files have them, and multiply as float32 does."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, dequantize, quantize
from gguf import GGMLQuantizationType as Kind

from cortex_neuron.native import build, library
from cortex_neuron.native.matrices import Matrices, Stored, floats, of_floats, rounded

KINDS = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1]


def _stored(kind: Kind, rows: int, columns: int, order=None) -> Stored:
    values = np.random.default_rng(5).normal(size=(rows, columns)).astype(np.float32)
    data = quantize(values, kind)
    return Stored(kind, (rows, columns), np.ascontiguousarray(data).view(np.uint8).reshape(rows, -1), order)


def _stored_at_random(kind: Kind, rows: int, columns: int) -> Stored:
    """Bytes as they come, for kinds that the gguf package does not write; only their scales are made small."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    data = np.random.default_rng(8).integers(0, 256, (rows, columns // block, block_bytes), np.uint8)
    halves = {Kind.Q4_K: (0, 2), Kind.Q5_K: (0, 2), Kind.Q6_K: (208,)}[kind]
    for place in halves:
        data[:, :, place : place + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    return Stored(kind, (rows, columns), data.reshape(rows, -1))


def _unpacked(functions, weight) -> np.ndarray:
    out = np.empty((weight.rows, weight.columns), np.float32)
    for row in range(weight.rows):
        functions.cortex_unpack_row(ctypes.byref(weight), row, out[row].ctypes.data)
    return out


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("rows", "columns"), [(16, 32), (5, 96), (50, 64)])
def test_every_value_of_a_packed_matrix_is_the_files(kind, rows, columns, native_kernels) -> None:
    """Each kind, and panels that are not full."""
    stored = _stored(kind, rows, columns)
    matrices = Matrices(native_kernels, threads=2)  # whose memory it is
    packed = matrices.pack(stored)
    expected = dequantize(stored.data, kind) if kind != Kind.F32 else stored.data.view(np.float32)
    np.testing.assert_allclose(_unpacked(native_kernels, packed), expected, rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q5_K, Kind.Q6_K], ids=lambda kind: kind.name)
def test_every_value_of_a_k_quant_is_the_files(kind, native_kernels) -> None:
    """Blocks of 256 with scales of scales."""
    stored = _stored_at_random(kind, 20, 512)
    matrices = Matrices(native_kernels, threads=2)
    unpacked = _unpacked(native_kernels, matrices.pack(stored))
    np.testing.assert_allclose(unpacked, dequantize(stored.data, kind), rtol=3e-7, atol=1e-6)


@pytest.mark.parametrize("kind", [*KINDS, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K], ids=lambda kind: kind.name)
def test_a_product_is_that_of_the_values_in_float32(kind, native_kernels) -> None:
    """However rows are divided: alone, a few, more than registers hold, many; with a bias and a panel half full."""
    stored = _stored_at_random(kind, 40, 512) if kind.name.endswith("_K") else _stored(kind, 40, 512)
    rng = np.random.default_rng(9)
    bias = rng.normal(size=40).astype(np.float32)
    matrices = Matrices(native_kernels, threads=1)
    packed = matrices.pack(stored, bias)
    values = _unpacked(native_kernels, packed).astype(np.float64)
    for rows in (1, 2, 3, 4, 7, 12, 13, 24, 25, 70):
        inputs = rng.normal(size=(rows, 512)).astype(np.float32)
        out = np.empty((rows, 40), np.float32)
        native_kernels.cortex_multiply(ctypes.byref(packed), inputs.ctypes.data, rows, out.ctypes.data)
        expected = inputs @ values.T + bias
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", [*KINDS, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K], ids=lambda kind: kind.name)
def test_matrices_that_are_packed_together_are_as_they_were_apart(kind, native_kernels) -> None:
    """As the experts of a layer are, whose rows follow each other."""
    whole = _stored_at_random(kind, 96, 256) if kind.name.endswith("_K") else _stored(kind, 96, 256)
    parts = [Stored(kind, (32, 256), whole.data[first : first + 32]) for first in (0, 32, 64)]
    matrices = Matrices(native_kernels, threads=2)
    together = _unpacked(native_kernels, matrices.pack_together(parts, 3))
    np.testing.assert_array_equal(together, _unpacked(native_kernels, matrices.pack(whole)))
    np.testing.assert_allclose(together, floats(whole), rtol=3e-7, atol=1e-6)


def test_rows_come_in_the_order_that_is_asked_for(native_kernels) -> None:
    """Llama's q and k have theirs interleaved in a GGUF file."""
    order = np.random.default_rng(6).permutation(40).astype(np.int32)
    plain, ordered = _stored(Kind.Q4_1, 40, 64), _stored(Kind.Q4_1, 40, 64, order)
    matrices = Matrices(native_kernels, threads=1)
    straight = _unpacked(native_kernels, matrices.pack(plain))
    np.testing.assert_array_equal(_unpacked(native_kernels, matrices.pack(ordered)), straight[order])


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_rounding_stays_within_half_a_step(name, native_kernels) -> None:
    """8 bits: 1/254 of a block's largest value; 4 bits: 1/30 of its range, and what halves round."""
    values = np.random.default_rng(7).normal(size=(20, 64)).astype(np.float32)
    kind = {"int8": Kind.Q8_0, "int4": Kind.Q4_1}[name]
    matrices = Matrices(native_kernels, threads=1)
    packed = matrices.pack(rounded(values, kind))
    error = np.abs(_unpacked(native_kernels, packed) - values).reshape(20, 2, 32).max(-1)
    blocks = values.reshape(20, 2, 32)
    step = np.abs(blocks).max(-1) / 127 if name == "int8" else (blocks.max(-1) - blocks.min(-1)) / 15
    assert (error <= step * 0.52 + np.abs(blocks).max(-1) * 1e-3).all()


def test_memory_is_what_the_kinds_say(native_kernels) -> None:
    """4 bits and two halves a block of 32: 5 bits a weight."""
    matrices = Matrices(native_kernels, threads=1)
    matrices.pack(_stored(Kind.Q4_1, 160, 320))
    assert matrices.num_bytes == 160 * 320 * 5 // 8
    matrices.pack(of_floats(np.zeros((16, 32), np.float32)))
    assert matrices.num_bytes == 160 * 320 * 5 // 8 + 16 * 32 * 4


def test_a_machine_without_a_compiler_is_told_so(monkeypatch, capsys, tmp_path) -> None:
    """And goes on without the kernels."""
    monkeypatch.setattr(build, "_HERE", tmp_path)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    assert build.main() == 0
    assert "no C++ compiler is installed" in capsys.readouterr().err
    assert build.library_path() is None


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path) -> None:
    """What it said is what somebody needs to mend it."""
    monkeypatch.setattr(build, "_HERE", tmp_path)
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho no such flag >&2\nexit 3\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(build.CannotBuild, match="ended with 3: no such flag"):
        build.build()
    assert list(tmp_path.iterdir()) == [compiler]


def test_a_library_that_the_machine_refuses_is_done_without(monkeypatch, capsys, tmp_path) -> None:
    """One compiled for a newer C library, say: torch computes, and the log says why."""
    (tmp_path / "kernels.so").write_bytes(b"no library at all")
    monkeypatch.setattr(library, "library_path", lambda: tmp_path / "kernels.so")
    assert library.library.__wrapped__() is None
    assert "native kernels cannot be used, torch computes in their place" in capsys.readouterr().err
