"""Rank 0 as it really runs: a process of the fork server, over a real socket."""

from __future__ import annotations

import array
import contextlib
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from cortex_neuron.group.entry import run_rank
from cortex_neuron.native.library import library
from cortex_neuron.protocol.frames import (
    Bye,
    Cancel,
    Error,
    FromRank,
    Load,
    Loaded,
    LoadProgress,
    Ping,
    Pong,
    SamplingParams,
    Shutdown,
    Stepped,
    Submit,
    ToRank,
    decode_from_rank,
    encode,
)

DEADLINE_S = 60.0
MODULE = "cortex_neuron.engine.rank"


class Line:
    """The daemon's end of the socket."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(address)

    def send(self, frame: ToRank | bytes) -> None:
        self._socket.send_multipart([b"rank-0", frame if isinstance(frame, bytes) else encode(frame)])

    def receive(self) -> FromRank:
        assert self._socket.poll(DEADLINE_S * 1000), "the rank said nothing"
        identity, data = self._socket.recv_multipart()
        assert identity == b"rank-0"
        return decode_from_rank(data)

    def receive_until(self, wanted: Callable[[FromRank], bool]) -> list[FromRank]:
        frames = [self.receive()]
        while not wanted(frames[-1]):
            frames.append(self.receive())
        return frames

    def close(self) -> None:
        self._context.destroy(linger=0)


@contextlib.contextmanager
def _rank(address: str) -> Iterator[tuple[Line, Any]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cortex_neuron.engine.preload_modules"])
    line = Line(address)
    process = context.Process(target=run_rank, args=(MODULE, address, 0, 1))
    process.start()
    try:
        yield line, process
    finally:
        process.kill()
        process.join(DEADLINE_S)
        line.close()


def _load_frame(source: Path, text_dir: Path, **more: Any) -> Load:
    fields: dict[str, Any] = {
        "seq": 7,
        "model_id": "demo",
        "source": str(source),
        "devices": ["cpu"],
        "quant": None,
        "vram_mb": 1500,
        "context": 4096,
        "max_sequences": 4,
        "max_step_tokens": 2048,
        "cpu_threads": None,
        "text_dir": str(text_dir),
        "init_timeout_s": DEADLINE_S,
        "load_timeout_s": DEADLINE_S,
    }
    return Load(**fields | more)


def _submit(number: int, prompt: list[int], max_tokens: int = 8) -> Submit:
    sampling = SamplingParams(temperature=0)
    return Submit(
        seq=number, id=number, prompt=array.array("i", prompt).tobytes(), max_tokens=max_tokens, sampling=sampling
    )


def _ended(number: int) -> Callable[[FromRank], bool]:
    return lambda f: isinstance(f, Stepped) and any(o.id == number and o.finish for o in f.outputs)


def test_a_rank_lives_from_hello_to_bye(demo_path, tmp_path, oracle) -> None:
    """Hello, load, answers, pings during a long step, a cancel, strange frames, the end."""
    with _rank(f"ipc://{tmp_path}/g") as (line, process):
        assert line.receive() == Pong(seq=0, rank=0, world_size=1, device="none")
        line.send(_submit(1, [5]))
        refused = line.receive()
        assert isinstance(refused, Error)
        assert (refused.seq, refused.kind, refused.fatal) == (1, "bad_request", False)

        line.send(_load_frame(demo_path, tmp_path / "text"))
        *progress, loaded = line.receive_until(lambda f: isinstance(f, Loaded | Error))
        assert isinstance(loaded, Loaded), loaded
        assert {type(f) for f in progress} == {LoadProgress}
        fractions = [f.fraction for f in progress if isinstance(f, LoadProgress)]
        assert fractions == sorted(fractions)
        assert (loaded.seq, loaded.context, loaded.vocab_size, loaded.block_size) == (7, 4096, 49152, 16)
        weights_mb = 93 if library() else 514  # as the file has them; as floats
        assert (loaded.vram_mb, loaded.kv_blocks) == (weights_mb + 720, 1024)  # and 4 contexts

        capital = oracle[0]
        line.send(_submit(2, capital["prompt_ids"]))
        steps = [f for f in line.receive_until(_ended(2)) if isinstance(f, Stepped)]
        assert [t for s in steps for o in s.outputs for t in o.tokens] == capital["token_ids"]

        _check_pings_in_a_long_step(line)

        line.send(_submit(4, capital["prompt_ids"], max_tokens=2000))
        line.receive_until(lambda f: isinstance(f, Stepped))
        line.send(Cancel(seq=5, ids=[4]))
        line.send(_submit(6, capital["prompt_ids"], max_tokens=2))
        frames = line.receive_until(_ended(6))
        assert frames[-1].kv_blocks_free == loaded.kv_blocks

        line.send(msgspec.msgpack.encode({"op": "dance", "seq": 11}))
        line.send(msgspec.msgpack.encode({"op": "cancel", "seq": 12}))
        line.send(b"\xc1")
        errors = [line.receive() for _ in range(3)]
        assert [(e.seq, e.kind, e.fatal) for e in errors] == [
            (11, "unknown_op", False),
            (12, "bad_request", False),
            (0, "bad_request", False),
        ]

        os.kill(process.pid, signal.SIGINT)  # the daemon's to answer, not the rank's
        line.send(Shutdown(seq=13))
        assert line.receive() == Bye(seq=13)
        process.join(DEADLINE_S)
        assert process.exitcode == 0


def _check_pings_in_a_long_step(line: Line) -> None:
    """A prompt of 1,000 tokens is one step of seconds; a ping in it is answered within 0.1 s (case T7)."""
    line.send(_submit(3, [504, 28] * 500, max_tokens=1))
    waits = []
    frames: list[FromRank] = []
    for seq in range(100, 107):
        sent_s = time.monotonic()
        line.send(Ping(seq=seq))
        frames += line.receive_until(lambda f: isinstance(f, Pong))
        waits.append(time.monotonic() - sent_s)
    assert not any(isinstance(f, Stepped) for f in frames), "the step was over before the pings were"
    assert [f.seq for f in frames] == list(range(100, 107))
    assert statistics.median(waits) < 0.1
    line.receive_until(_ended(3))


def test_a_load_that_fails_is_fatal_and_ends_the_process(demo_path, tmp_path) -> None:
    """The error names the figures; the memory is given back by the end of the process."""
    with _rank(f"ipc://{tmp_path}/g") as (line, process):
        line.receive()
        line.send(_load_frame(demo_path, tmp_path / "text", vram_mb=95))
        *_, error = line.receive_until(lambda f: isinstance(f, Loaded | Error))
        assert isinstance(error, Error)
        assert (error.seq, error.kind, error.fatal) == (7, "load_failed", True)
        assert "vram_mb 95 is too little" in error.message
        process.join(DEADLINE_S)
        assert process.exitcode == 1


PARENT = """
import multiprocessing, sys, time
from cortex_neuron.group.entry import run_rank

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cortex_neuron.engine.preload_modules"])
    process = context.Process(target=run_rank, args=(sys.argv[1], sys.argv[2], 0, 1))
    process.start()
    print(process.pid, flush=True)
    time.sleep(600)
"""


def test_a_rank_does_not_outlive_its_daemon(tmp_path) -> None:
    """SIGKILL of the daemon ends the fork server, and that the rank: no GPU is held by an orphan."""
    address = f"ipc://{tmp_path}/g"
    line = Line(address)
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py", MODULE, address], stdout=subprocess.PIPE)
    try:
        assert isinstance(line.receive(), Pong)
        assert parent.stdout is not None
        rank = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait(DEADLINE_S)
        until_s = time.monotonic() + DEADLINE_S
        while _alive(rank):
            assert time.monotonic() < until_s, "the rank outlived its daemon"
            time.sleep(0.02)
    finally:
        parent.kill()
        parent.communicate()
        line.close()


def _alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    return False


@pytest.fixture(scope="module", autouse=True)
def _no_fork_server_is_left() -> Iterator[None]:
    """The fork server of this process ends with these tests."""
    yield
    from multiprocessing import forkserver

    forkserver._forkserver._stop()  # type: ignore[attr-defined]
