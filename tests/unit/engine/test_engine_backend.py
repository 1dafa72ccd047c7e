"""Which kernels attend, what is said of it, and that a model comes out the same by those that read pages."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import paged_reference
import pytest
import torch

from cortex_neuron.engine import runner
from cortex_neuron.layers import backend, kernel_trial, page_kernels
from cortex_neuron.layers.backend import Backend, Facts, Kernel, choose

AMPERE = Facts("cuda", (8, 0), 128, torch.bfloat16, torch.bfloat16, False, True, True)
FP8 = torch.float8_e4m3fn
SMALL = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "eos_token_id": 2,
}  # fmt: skip
WINDOWS = {"sliding_window": 11, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 12}
PROMPTS = [[5], [7, 9, 11], [8, 9] * 8, list(range(4, 37)), list(range(4, 90))]


@pytest.mark.parametrize(
    ("facts", "decode", "chunks", "reason"),
    [
        (AMPERE, Kernel.TRITON, Kernel.VARLEN, ""),
        (replace(AMPERE, has_paged_varlen=False), Kernel.TRITON, Kernel.GATHER, "no varlen: this torch's varlen_attn"),
        (replace(AMPERE, has_triton=False), Kernel.VARLEN, Kernel.VARLEN, "no triton: triton is not installed"),
        (replace(AMPERE, is_capped=True), Kernel.TRITON, Kernel.GATHER, "no varlen: it caps no scores"),
        (replace(AMPERE, head_dim=512), Kernel.GATHER, Kernel.GATHER, "no triton: it takes heads of up to 256"),
        (replace(AMPERE, cache_dtype=FP8), Kernel.GATHER, Kernel.GATHER, "no triton: a cache in fp8 needs 8.9"),
        (replace(AMPERE, cache_dtype=FP8, capability=(9, 0)), Kernel.TRITON, Kernel.GATHER, "no varlen: it takes no"),
        (replace(AMPERE, capability=(7, 5)), Kernel.GATHER, Kernel.GATHER, "no triton: bfloat16 needs 8.0"),
        (
            replace(AMPERE, capability=(7, 5), dtype=torch.float16, cache_dtype=torch.float16),
            Kernel.TRITON, Kernel.GATHER, "no varlen: it needs compute capability 8.0",
        ),
        (replace(AMPERE, dtype=torch.float32, cache_dtype=torch.float32), Kernel.TRITON, Kernel.GATHER, "no varlen"),
    ],
)  # fmt: skip
def test_the_best_kernels_that_can_are_chosen_and_the_others_refusals_are_said(
    facts: Facts, decode: Kernel, chunks: Kernel, reason: str
) -> None:
    """By device, model and what is installed."""
    found = choose(facts, lambda _: None)
    assert (found.decode, found.chunks, found.block_size) == (decode, chunks, 256)
    assert reason in found.reason
    assert bool(reason) == bool(found.reason)
    assert str(found).startswith(f"decode by {decode.value}, chunks by {chunks.value}, pages of 256")


def test_a_kernel_that_fails_its_trial_is_not_taken() -> None:
    """Whatever the table says of it; the last one, which is in use everywhere, is not tried."""
    found = choose(AMPERE, lambda kernel: f"{kernel.value} is 3 off")
    assert (found.decode, found.chunks) == (Kernel.GATHER, Kernel.GATHER)
    assert found.reason == "no triton: triton is 3 off, no varlen: varlen is 3 off"


@pytest.mark.parametrize("kernel", [Kernel.TRITON, Kernel.VARLEN])
@pytest.mark.parametrize("cache_dtype", [torch.float32, FP8])
def test_a_trial_tells_a_right_kernel_from_a_wrong_one_and_one_that_breaks(
    kernel: Kernel, cache_dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By rows of one token or of chunks, over several pages; also from a cache in fp8."""
    shape, cpu = kernel_trial.Shape(4, 2, 16, torch.float32, cache_dtype), torch.device("cpu")
    right = paged_reference.attend_pages
    attends: dict[str, Any] = {
        "right": right,
        "off by one token": lambda q, k, v, pages, *rule: right(
            q, k, v, replace(pages, lengths=pages.lengths - 1, starts=pages.starts), *rule
        ),
        "not finite": lambda *given: right(*given) * torch.nan,
        "broken": lambda *_: 1 / 0,
    }
    found = {}
    for name, attend in attends.items():
        monkeypatch.setattr(page_kernels, "attend", attend)
        found[name] = kernel_trial.fault.__wrapped__(kernel, shape, cpu)
    assert found["right"] is None
    assert found["broken"] == "it failed a trial: ZeroDivisionError: division by zero"
    assert found["not finite"] == "it failed a trial: it is inf off"
    assert "off" in found["off by one token"]


def test_a_cpu_gathers_from_small_pages() -> None:
    """Whatever is installed."""
    assert choose(replace(AMPERE, device="cpu", capability=(0, 0)), lambda _: "never asked") == backend.GATHERED


def test_whether_torch_reads_pages_is_seen_by_what_its_function_takes() -> None:
    """torch 2.13's takes a block table, 2.11's does not."""
    from torch.nn.attention import varlen

    takes = "block_table" in inspect.signature(varlen.varlen_attn).parameters
    assert backend.has_paged_varlen() is takes


@pytest.mark.parametrize("chunks", [Kernel.VARLEN, Kernel.GATHER])
@pytest.mark.parametrize("family", [("llama", {}), ("gemma2", {**WINDOWS, "attn_logit_softcapping": 3.0})])
def test_a_model_comes_out_the_same_by_kernels_that_read_pages(
    family: tuple[str, dict[str, Any]], chunks: Kernel, torch_model, start_with, monkeypatch
) -> None:
    """The block tables and lengths that they are given; the kernels' place is taken by plain arithmetic."""
    model = torch_model(family[0], {**SMALL, **family[1]})
    told: list[list[Any]] = []
    calls: list[Kernel] = []

    def attend(*given: Any) -> Any:
        calls.append(given[3].kernel)
        return paged_reference.attend_pages(*given)

    monkeypatch.setattr(page_kernels, "attend", attend)
    for attends in (backend.GATHERED, Backend(Kernel.TRITON, chunks, 16, "")):
        monkeypatch.setattr(runner, "backend_for", lambda _, attends=attends: attends)
        session = start_with(model, blocks=64, sequences=8, step_tokens=24)
        ids = [session.submit(p, max_tokens=6, logprobs=5, ignore_eos=True) for p in PROMPTS]
        session.finish()
        told.append([row.top for i in ids for row in session.answers[i].logprobs])
    assert told[1] == [pytest.approx(row, abs=1e-4) for row in told[0]]
    assert set(calls) == {Kernel.TRITON, chunks} - {Kernel.GATHER}
