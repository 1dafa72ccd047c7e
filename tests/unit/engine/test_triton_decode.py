"""Our kernel for decoding over pages: on a GPU where there is one, else in Triton's interpreter (tests/conftest.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import paged_reference
import pytest
import torch

from cortex_neuron.engine import decode_graphs, runner
from cortex_neuron.layers.backend import GATHERED, Backend, Kernel
from cortex_neuron.layers.stored import FP8
from cortex_neuron.models.loader import load

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

LENGTHS = [1, 37, 64, 200, 0, 511]
BLOCK = 256
GEMMA = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "eos_token_id": 2, "sliding_window": 11,
    "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 16, "attn_logit_softcapping": 3.0,
}  # fmt: skip

pytestmark = [pytest.mark.usefixtures("_device"), pytest.mark.filterwarnings("default")]  # Triton's own warnings


@pytest.fixture
def _device() -> Iterator[None]:
    """Tensors are made there."""
    with torch.device(DEVICE):
        yield


@pytest.fixture
def kernel() -> Any:
    """layers.triton_decode."""
    pytest.importorskip("triton", reason="Triton is not installed: CUDA's torch brings it")
    from cortex_neuron.layers import triton_decode

    return triton_decode


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "block", "dtype", "rule"),
    [
        (9, 3, 64, 16, torch.float32, {}),
        (8, 1, 128, BLOCK, torch.float32, {"window": 100}),
        (4, 4, 80, BLOCK, torch.float32, {"softcap": 3.0}),
        (16, 2, 64, BLOCK, torch.float16, {"window": 64, "softcap": 20.0}),
    ],
    ids=["three a head", "a window", "capped, odd heads", "float16, all of it"],
)
def test_it_attends_as_plain_arithmetic_does(
    kernel: Any, heads: int, kv_heads: int, head_dim: int, block: int, dtype: torch.dtype, rule: dict[str, Any]
) -> None:
    """Sequences of unlike length over scattered pages, and one of none, which comes out as zeros."""
    torch.manual_seed(3)
    rows, blocks = len(LENGTHS), -(-max(LENGTHS) // block)
    tables = torch.randperm(rows * blocks).view(rows, blocks).to(torch.int32)
    keys = torch.randn(rows * blocks * block, kv_heads, head_dim, dtype=dtype)
    values = torch.randn_like(keys)
    query = torch.randn(heads, rows, head_dim, dtype=dtype).transpose(0, 1)  # as transformers has it
    lengths = torch.tensor(LENGTHS, dtype=torch.int32)
    rule = {"scale": head_dim**-0.5, "window": None, "softcap": None} | rule
    found = kernel.attend(query, keys, values, tables, lengths, block, **rule)
    expected = paged_reference.attend(query, keys, values, tables, lengths, block, **rule)
    assert not found[LENGTHS.index(0)].any()
    torch.testing.assert_close(found, expected, atol=2e-5 if dtype is torch.float32 else 2e-3, rtol=1e-3)


def test_a_row_comes_out_the_same_whatever_pads_its_batch(kernel: Any) -> None:
    """As long as the parts are as many: the kernel has no sums across rows."""
    torch.manual_seed(5)
    keys, query = torch.randn(BLOCK, 2, 16), torch.randn(2, 4, 16)
    rule = {"scale": 0.25, "window": None, "softcap": None}
    table, lengths = torch.zeros(2, 1, dtype=torch.int32), torch.tensor([9, 0], dtype=torch.int32)
    alone = kernel.attend(query[:1], keys, keys, table[:1], lengths[:1], BLOCK, **rule)
    padded = kernel.attend(query, keys, keys, table, lengths, BLOCK, **rule)
    assert torch.equal(alone[0], padded[0])


def test_it_compiles_for_every_capability_that_it_is_chosen_for(kernel: Any) -> None:
    """The interpreter takes Python that the compiler does not. In a process that does not interpret; without a GPU."""
    script = Path(__file__).with_name("compile_triton.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(DEVICE == "cuda", reason="tests/gpu has the engine on a GPU")
@pytest.mark.parametrize("cache_dtype", [torch.float32, FP8], ids=["float32", "float8"])
def test_a_model_that_decodes_by_it_gives_what_it_gives_by_gathering(
    kernel: Any, cache_dtype: torch.dtype, tmp_path: Path, make_folder: Any, start_with: Any, monkeypatch: Any
) -> None:
    """Through the engine, with windows and capped scores, in steps as graphs have them."""
    make_folder(tmp_path / "model", "gemma2", GEMMA)
    model = load(str(tmp_path / "model"), "cpu", None, str(tmp_path / "text"), 1, lambda *_: None)
    model = replace(model, shape=replace(model.shape, dtype=cache_dtype))
    monkeypatch.setattr(decode_graphs, "record_on", lambda _: lambda step: step() or step)
    told = []
    for attends, refusal in ((GATHERED, "not now"), (Backend(Kernel.TRITON, Kernel.GATHER, 16, ""), None)):
        monkeypatch.setattr(runner, "backend_for", lambda _, attends=attends: attends)
        monkeypatch.setattr(runner, "graphs_refusal", lambda *_, refusal=refusal: refusal)
        session = start_with(model, blocks=40, sequences=2, step_tokens=64)
        ids = [session.submit(p, max_tokens=3, logprobs=5, ignore_eos=True) for p in ([5], list(range(4, 60)))]
        session.finish()
        told.append([row.top for i in ids for row in session.answers[i].logprobs])
    assert told[1] == [pytest.approx(row, abs=1e-4) for row in told[0]]
