"""The compiled kernels as Python sees them, by ctypes: the structures of kernels/model.h, functions of decoder.cpp.

Owns: the binary interface. Whoever calls keeps alive what a structure points to. Calls let go of the interpreter.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, Structure, c_float, c_int32, c_size_t, c_void_p
from functools import cache
from typing import Any

from cortex_neuron.native.build import library_path


class Weight(Structure):
    """A packed matrix [rows, columns]; `kind` is a Kind of kernels/weights.h."""

    _fields_ = (("kind", c_int32), ("rows", c_int32), ("columns", c_int32), ("data", c_void_p), ("bias", c_void_p))


class Layer(Structure):
    """Of a decoder; null where a model has no such thing."""

    _fields_ = (
        ("input_norm", c_void_p),
        ("output_norm", c_void_p),
        ("attention_norm", c_void_p),
        ("inner_norm", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("query", Weight),
        ("key", Weight),
        ("value", Weight),
        ("output", Weight),
        ("router", Weight),
        ("gate", Weight),
        ("up", Weight),
        ("down", Weight),
        ("window", c_int32),
        ("rotation", c_int32),
    )


class Model(Structure):
    """A decoder's shape and where its parts are."""

    _fields_ = (
        ("num_layers", c_int32),
        ("hidden", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_size", c_int32),
        ("rotary", c_int32),
        ("chosen_experts", c_int32),
        ("whole_shares", c_int32),
        ("activation", c_int32),
        ("epsilon", c_float),
        ("scale", c_float),
        ("embedding_scale", c_float),
        ("score_cap", c_float),
        ("logit_cap", c_float),
        ("embedding", Weight),
        ("head", Weight),
        ("norm", c_void_p),
        ("layers", POINTER(Layer)),
    )


class Step(Structure):
    """A batch; arrays are int32 or float32, contiguous."""

    _fields_ = (
        ("rows", c_int32),
        ("sequences", c_int32),
        ("wanted_rows", c_int32),
        ("tokens", c_void_p),
        ("slots", c_void_p),
        ("row_starts", c_void_p),
        ("pasts", c_void_p),
        ("tables", c_void_p),
        ("table_starts", c_void_p),
        ("wanted", c_void_p),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("logits", c_void_p),
    )


@cache
def library() -> Any | None:
    """The functions, or None where no library is built for this machine, or the machine refuses it and says so."""
    path = library_path()
    if path is None:
        return None
    try:
        functions = ctypes.CDLL(str(path))
    except OSError as refusal:  # such as a C library that is older than that of the machine which compiled it
        sys.stderr.write(f"native kernels cannot be used, torch computes in their place: {refusal}\n")
        return None
    functions.cortex_packed_size.argtypes = (c_int32, c_int32, c_int32)
    functions.cortex_packed_size.restype = c_size_t
    functions.cortex_pack.argtypes = (c_int32, c_void_p, c_void_p, POINTER(Weight), c_int32)
    functions.cortex_pack.restype = None
    functions.cortex_unpack_row.argtypes = (POINTER(Weight), c_int32, c_void_p)
    functions.cortex_unpack_row.restype = None
    functions.cortex_multiply.argtypes = (POINTER(Weight), c_void_p, c_int32, c_void_p)
    functions.cortex_multiply.restype = None
    functions.cortex_decoder_new.argtypes = (POINTER(Model), c_int32)
    functions.cortex_decoder_new.restype = c_void_p
    functions.cortex_decoder_delete.argtypes = (c_void_p,)
    functions.cortex_decoder_delete.restype = None
    functions.cortex_decoder_step.argtypes = (c_void_p, POINTER(Step))
    functions.cortex_decoder_step.restype = None
    return functions
