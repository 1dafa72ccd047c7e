"""What a group costs: a step through it beside the bare engine, a step's message, the share of collectives.

The bare engine and the group compute the same tokens of the demo model in turns, in one run. The demo model's heads do
not divide by two, so that the share of collectives is that of random weights in a like shape.
"""

from __future__ import annotations

import cortex_neuron.engine.preload  # isort: skip  # noqa: F401  (first: it sets what torch reads when it is imported)

import array
import asyncio
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zmq
from tests.bench.processes import DEMO_MODEL
from transformers import AutoConfig, AutoModelForCausalLM

from cortex_neuron.engine.engine import Engine
from cortex_neuron.engine.kv_cache import CacheSize
from cortex_neuron.engine.peers import Peers
from cortex_neuron.engine.step_frame import pack
from cortex_neuron.engine.threads import measure_threads
from cortex_neuron.group import fork_server
from cortex_neuron.group.group import Group, GroupLimits
from cortex_neuron.layers.backend import CPU_BLOCK
from cortex_neuron.layers.batch import Batch, Tables, make_batch
from cortex_neuron.models.loader import load
from cortex_neuron.protocol import frames
from cortex_neuron.protocol.addresses import identity, peers_address
from cortex_neuron.protocol.failures import WorkerFailed

_ROUNDS, _TOKENS = 7, 60
_PROMPT = [504, 28, 260, 338] * 32
_LIMITS_S = 120.0


def measure() -> dict[str, float]:
    """Milliseconds and microseconds; medians."""
    fork_server.start_fork_server("cortex_neuron.engine.preload_modules")
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures = asyncio.run(_beside_the_bare_engine(Path(folder)))
            figures |= _messages(Path(folder))
            figures |= asyncio.run(_share_of_collectives(Path(folder)))
    finally:
        fork_server.stop_fork_server()
    return figures


async def _beside_the_bare_engine(folder: Path) -> dict[str, float]:
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    model = load(str(DEMO_MODEL), "cpu", None, str(folder / "text"), threads, lambda *_: None)
    engine = Engine(model, CacheSize(CPU_BLOCK, 64, 1024), 4, 256, measure_threads(model.module, threads))
    group = await _started(folder / "one.ipc", DEMO_MODEL, ["cpu"], "cortex_neuron.engine.rank")
    bare: list[float] = []
    grouped: list[float] = []
    for number in range(_ROUNDS):
        bare.append(await asyncio.to_thread(_engine_step_ms, engine, number))
        grouped.append(await _group_step_ms(group))
    await group.end()
    over = [through - alone for through, alone in zip(grouped, bare, strict=True)]
    return {
        "bare_step_ms": statistics.median(bare),
        "group_step_ms": statistics.median(grouped),
        "group_overhead_ms": statistics.median(over),
        "group_overhead_percent": 100 * statistics.median(over) / statistics.median(bare),
    }


def _engine_step_ms(engine: Engine, number: int) -> float:
    engine.submit(_submission(number + 1))
    took = []
    while engine.has_work:
        began = time.perf_counter()
        engine.step()
        took.append(time.perf_counter() - began)
    return statistics.median(took[1:]) * 1000  # the first is the prompt's


async def _group_step_ms(group: Group) -> float:
    stream = group.submit([_submission(0)])
    came, ended = [], False
    while not ended:
        for output in await stream.next(5.0):
            came.append(time.perf_counter())
            ended = output.finish is not None
    stream.close()
    return statistics.median(after - before for before, after in itertools.pairwise(came)) * 1000


def _submission(number: int) -> frames.Submit:
    sampling = frames.SamplingParams(temperature=0)
    prompt = array.array("i", _PROMPT).tobytes()
    return frames.Submit(id=number, prompt=prompt, max_tokens=_TOKENS, sampling=sampling, ignore_eos=True)


async def _started(path: Path, source: Path, devices: list[str], module: str) -> Group:
    group = await Group.start(path, GroupLimits(_LIMITS_S, _LIMITS_S, module), len(devices))
    request = frames.Load(
        model_id="bench", source=str(source), devices=devices, quant=None, vram_mb=2000, context=1024, max_sequences=4,
        max_step_tokens=None, cpu_threads=None, text_dir=f"{path}.text", init_timeout_s=_LIMITS_S,
        load_timeout_s=_LIMITS_S,
    )  # fmt: skip
    await group.load(request, _LIMITS_S, lambda _: None)
    return group


# ---- a step's message


def _messages(folder: Path) -> dict[str, float]:
    """There and back, of one sequence, and of 32 with 64 blocks each."""
    figures = {}
    for rows in (1, 32):
        one, tables = np.ones(rows, np.int32), np.tile(np.arange(64, dtype=np.int32), rows)
        starts = np.arange(rows, dtype=np.int32) * 64
        batch = make_batch(one * 7, one, one * 1023, Tables(tables, starts, CPU_BLOCK), one[:1] * 0)
        waits = sorted(_round_trips(f"ipc://{folder}/m{rows}", batch))
        figures[f"message_{rows}_us"] = waits[len(waits) // 2] * 1e6
        figures[f"message_{rows}_p99_us"] = waits[len(waits) * 99 // 100] * 1e6
    return figures


def _round_trips(address: str, batch: Batch) -> list[float]:
    peers = Peers(address, 2)
    answering = multiprocessing.get_context("spawn").Process(target=_answer, args=(address,), daemon=True)
    answering.start()
    peers.meet(_LIMITS_S, WorkerFailed)
    waits = []
    for _ in range(2000):
        began = time.perf_counter()
        peers.tell(pack(batch))
        peers.all_answers(_LIMITS_S, WorkerFailed, "step")
        waits.append(time.perf_counter() - began)
    peers.tell(frames.Shutdown())
    answering.join()
    peers.close()
    return waits


def _answer(address: str) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.identity = identity(1)
    socket.connect(peers_address(address))
    socket.send(frames.encode(frames.Pong(rank=1, world_size=2, device="cpu")))
    while not isinstance(frame := frames.decode_to_worker(socket.recv()), frames.Shutdown):
        socket.send(frames.encode(frames.StepDone(seq=frame.seq)))
    context.destroy()


# ---- collectives


async def _share_of_collectives(folder: Path) -> dict[str, float]:
    source, figures = _random_weights(folder / "random"), dict[str, float]()
    for size in (1, 2):
        path = folder / f"tp{size}.ipc"
        group = await _started(path, source, ["cpu"] * size, "tests.bench.timed_rank")
        await _group_step_ms(group)
        figures[f"tp{size}_step_ms"] = await _group_step_ms(group)
        await group.end()
        spent: dict[str, Any] = json.loads(Path(f"{path}.spent").read_text())
        if size > 1:
            figures["tp2_collectives_a_step"] = spent["collectives"] / spent["steps"]
            figures["tp2_collectives_percent_of_a_step"] = 100 * spent["collectives_s"] / spent["steps_s"]
    return figures


def _random_weights(folder: Path) -> Path:
    config = AutoConfig.for_model(
        "llama", vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=8, num_key_value_heads=4, head_dim=72, max_position_embeddings=2048,
        tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    from tokenizers import Tokenizer, models

    words = {f"w{number}": number for number in range(config.vocab_size)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    return folder
