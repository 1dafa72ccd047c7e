"""The process of rank 0: frames in, frames out, one engine.

Owns: the process's own life (it dies with its parent, and leaves SIGINT to it) and the loop over frames. Does not own:
the socket (engine.mailbox) or the model (engine.engine). Called by: cortex_neuron.group.entry.run_rank, in a process
that the fork server made.
"""

from __future__ import annotations

import cortex_neuron.engine.preload  # isort: skip  # noqa: F401  (first: it sets what torch reads when it is imported)

import ctypes
import os
import signal
import sys

import torch

from cortex_neuron.engine.engine import Engine
from cortex_neuron.engine.failures import classify
from cortex_neuron.engine.kv_cache import CPU_BLOCK, GPU_BLOCK, Demand, size_cache
from cortex_neuron.engine.mailbox import Mailbox
from cortex_neuron.engine.threads import measure_threads
from cortex_neuron.models.loader import load
from cortex_neuron.protocol.failures import BadRequest, RankFailure
from cortex_neuron.protocol.frames import (
    Bye,
    Cancel,
    Error,
    Load,
    Loaded,
    LoadProgress,
    Pong,
    Shutdown,
    Submit,
    ToRank,
)

_PR_SET_PDEATHSIG = 1
_CPU_STEP_TOKENS = 256
_GPU_STEP_TOKENS = 2048
_MB = 1 << 20


def main(address: str, rank: int) -> None:
    """Serve the daemon at `address` until it says Shutdown, a fatal fault, or the death of the parent."""
    _tie_to_parent()
    mailbox = Mailbox(address, rank, Pong(rank=rank, world_size=1, device="none"))
    try:
        _Rank(mailbox, rank).serve()
    finally:
        mailbox.close()


def _tie_to_parent() -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the daemon's to answer


class _Rank:
    def __init__(self, mailbox: Mailbox, rank: int) -> None:
        self._mailbox = mailbox
        self._rank = rank
        self._engine: Engine | None = None

    def serve(self) -> None:
        while True:
            for frame in self._mailbox.receive(wait=self._engine is None or not self._engine.has_work):
                if isinstance(frame, Shutdown):
                    self._mailbox.send(Bye(seq=frame.seq))
                    return
                self._answer(frame)
            self._step()

    def _answer(self, frame: ToRank) -> None:
        try:
            self._do(frame)
        except Exception as error:
            if self._report(error, frame.seq, loading=isinstance(frame, Load)):
                raise

    def _do(self, frame: ToRank) -> None:
        if isinstance(frame, Load):
            self._load(frame)
        elif self._engine is None:
            raise BadRequest(f"{type(frame).__name__.lower()} before load")
        elif isinstance(frame, Submit):
            self._engine.submit(frame)
        elif isinstance(frame, Cancel):
            self._engine.cancel(frame.ids)
            if not self._engine.has_work:  # no step will tell that blocks and seats are free
                self._mailbox.send(self._engine.report([], 0.0))

    def _step(self) -> None:
        if self._engine is None or not self._engine.has_work:
            return
        try:
            self._mailbox.send(self._engine.step())
        except Exception as error:
            self._report(error, 0, loading=False)
            raise

    def _report(self, error: Exception, seq: int, loading: bool) -> bool:
        """Tells the daemon. True for a fatal one, which is to end the process: that gives the memory back."""
        verdict = classify(error)
        kind = "load_failed" if loading and verdict.kind == "engine_error" else verdict.kind
        fatal = verdict.fatal or loading
        self._mailbox.send(Error(seq=seq, kind=kind, message=verdict.message, rank=self._rank, fatal=fatal))
        return fatal

    def _load(self, frame: Load) -> None:
        if self._engine is not None:
            raise RankFailure(f"a model is loaded already; {frame.model_id} needs a group of its own")
        threads = frame.cpu_threads or os.cpu_count() or 1
        torch.set_num_threads(threads)
        self._mailbox.pong = Pong(rank=self._rank, world_size=1, device=frame.device)

        def progress(phase: str, fraction: float) -> None:
            self._mailbox.send(LoadProgress(seq=frame.seq, phase=phase, fraction=fraction))

        model = load(frame.source, frame.device, frame.quant, frame.text_dir, threads, progress)
        progress("cache", 0.9)
        on_cpu = model.device.type == "cpu"
        demand = Demand(frame.vram_mb, frame.context, model.context, frame.max_sequences)
        size = size_cache(model.shape, model.num_bytes, demand, CPU_BLOCK if on_cpu else GPU_BLOCK)
        step_tokens = frame.max_step_tokens or (_CPU_STEP_TOKENS if on_cpu else _GPU_STEP_TOKENS)
        plan = measure_threads(model.module, threads) if on_cpu else None
        self._engine = Engine(model, size, frame.max_sequences, step_tokens, plan)
        self._mailbox.send(_loaded(frame, self._engine))


def _loaded(frame: Load, engine: Engine) -> Loaded:
    model, size = engine.model, engine.size
    num_bytes = model.num_bytes + engine.cache.num_bytes
    if model.device.type == "cuda":
        num_bytes = torch.cuda.memory_reserved(model.device)
    return Loaded(
        seq=frame.seq,
        vram_mb=-(-num_bytes // _MB),
        context=size.context,
        vocab_size=model.vocab_size,
        block_size=size.block_size,
        kv_blocks=size.num_blocks,
        eos_ids=list(model.eos_ids),
    )
