"""Vectors and scores on a GPU: the same code, on another device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_vector_models import TEXTS, expected, token_ids, write_vector_model

from cortex_neuron.engine.vector_engine import VectorEngine
from cortex_neuron.engine.vector_part import bring_up
from cortex_neuron.protocol.frames import Encode, Load, Pooling

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize(("model_type", "mode"), [("bert", "mean"), ("modernbert", "cls"), ("qwen3", "last")])
def test_a_gpu_makes_the_vectors_of_a_cpu(tmp_path: Path, model_type: str, mode: Any) -> None:
    """In float32, of texts of unlike length in one batch."""
    shape: dict[str, Any] = {"head_dim": 8, "num_key_value_heads": 2} if model_type == "qwen3" else {}
    folder = write_vector_model(tmp_path / "m", model_type, **shape)
    frame = Load(
        model_id="tiny", source=str(folder), devices=["cuda:0"], quant=None, vram_mb=1000, context=None,
        max_sequences=4, max_step_tokens=None, cpu_threads=None, text_dir=str(tmp_path / "text"), init_timeout_s=1.0,
        load_timeout_s=1.0, task="embed", pooling=Pooling(mode=mode),
    )  # fmt: skip
    engine = VectorEngine(bring_up(frame, lambda *_: None))
    rows = token_ids(folder, TEXTS)
    tokens = np.array([token for row in rows for token in row], "<i4").tobytes()
    engine.submit(Encode(id=0, tokens=tokens, lengths=np.array([*map(len, rows)], "<i4").tobytes()))
    found = {output.id: np.frombuffer(output.vector or b"", "<f4") for output in engine.step().outputs}
    np.testing.assert_allclose([found[i] for i in range(len(rows))], expected(folder, TEXTS, mode), atol=1e-3)
