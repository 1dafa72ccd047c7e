"""The process of a rank: frames in, frames out. Rank 0 has the engine; those above it are workers (engine.worker).

Owns: the process's own life (it dies with its parent, and leaves SIGINT to it) and rank 0's loop over the daemon's
frames. Does not own: the socket (engine.mailbox), the model (engine.engine), or the other ranks (engine.leader). Called
by: cortex_neuron.group.entry.run_rank, in a process that the fork server made.
"""

from __future__ import annotations

import cortex_neuron.engine.preload  # isort: skip  # noqa: F401  (first: it sets what torch reads when it is imported)

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from cortex_neuron.engine import draft_part, vector_part
from cortex_neuron.engine.compiling import Compiled, Compiling
from cortex_neuron.engine.engine import Engine
from cortex_neuron.engine.failures import classify
from cortex_neuron.engine.grammar import Grammars
from cortex_neuron.engine.leader import Leader
from cortex_neuron.engine.mailbox import Mailbox
from cortex_neuron.engine.part import bring_up, loaded
from cortex_neuron.engine.peers import Peers
from cortex_neuron.engine.prompt_lookup import PromptLookup
from cortex_neuron.engine.rest import Rest
from cortex_neuron.engine.vector_engine import VectorEngine
from cortex_neuron.engine.worker import LeaderLine, Worker
from cortex_neuron.protocol.failures import BadRequest, RankFailure
from cortex_neuron.protocol.frames import (
    Asleep,
    Bye,
    Cancel,
    Encode,
    Error,
    Frame,
    Load,
    Loaded,
    LoadProgress,
    Pong,
    Shutdown,
    Sleep,
    Submit,
    ToRank,
    Wake,
)

_PR_SET_PDEATHSIG = 1
_WORKERS_SHARE = 0.9  # of the time to fall asleep or wake up: the leader is to be the first to say which worker is late


def main(address: str, rank: int, world_size: int, worker: type[Worker] = Worker) -> None:
    """Serve the daemon at `address` until it says Shutdown, a fatal fault, or the death of the parent."""
    tie_to_parent()
    mailbox = Mailbox(address, rank, Pong(rank=rank, world_size=world_size, device="none"))
    try:
        if rank:
            worker(mailbox, LeaderLine(address, rank), rank).serve()
        else:
            Rank0(mailbox, Peers(address, world_size) if world_size > 1 else None).serve()
    finally:
        mailbox.close()


def tie_to_parent() -> None:
    """End with the parent, and leave SIGINT to it."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the daemon's to answer


class Rank0:
    """The rank that the daemon talks to. `peers` are its workers, where there are any."""

    def __init__(self, mailbox: Mailbox, peers: Peers | None) -> None:
        self._mailbox = mailbox
        self._peers = peers
        self._leader: Leader | None = None
        self._engine: Engine | VectorEngine | None = None
        self._rest: Rest[Loaded] | None = None  # of the model, once it is loaded
        self._compiling: Compiling | None = None  # from the load of a model that writes on

    def serve(self) -> None:
        while True:
            for frame in self._mailbox.receive(wait=self._engine is None or not self._engine.has_work):
                if not isinstance(frame, Frame):
                    frame()
                    continue
                if isinstance(frame, Shutdown):
                    if self._leader is not None:
                        self._leader.shutdown()
                    self._engine = None  # graphs go before the communicator that is in them
                    self._mailbox.send(Bye(seq=frame.seq))
                    return
                self._answer(frame)
            self._step()

    def _answer(self, frame: ToRank) -> None:
        try:
            self._do(frame)
        except Exception as error:
            if self._report(error, frame.seq, loading=isinstance(frame, Load | Sleep | Wake)):
                raise

    def _do(self, frame: ToRank) -> None:
        if isinstance(frame, Load):
            self._load(frame)
        elif isinstance(frame, Sleep):
            self._sleep(frame)
        elif isinstance(frame, Wake):
            self._wake(frame)
        elif isinstance(frame, Cancel):
            self._cancel(frame)
        elif self._engine is None:
            raise BadRequest(f"{type(frame).__name__.lower()} before load")
        elif isinstance(frame, Submit):
            self._write(frame)
        elif isinstance(frame, Encode):
            if not isinstance(self._engine, VectorEngine):
                raise BadRequest("encode, and the model was loaded to write")
            self._engine.submit(frame)

    def _cancel(self, frame: Cancel) -> None:
        if self._compiling is not None:
            self._compiling.cancel(frame.ids)
        if self._engine is None:  # it sleeps: what it had is gone
            return
        self._engine.cancel(frame.ids)
        if not self._engine.has_work:  # no step will tell that blocks and seats are free
            self._mailbox.send(self._engine.report([], 0.0))

    def _write(self, frame: Submit) -> None:
        if not isinstance(self._engine, Engine) or self._compiling is None:
            raise BadRequest("submit, and the model was not loaded to write")
        if frame.grammar is not None:
            self._compiling.begin(frame)
        else:
            self._engine.submit(frame)

    def _submit(self, frame: Submit, compiled: Compiled) -> None:
        if not isinstance(self._engine, Engine):  # it has fallen asleep since: whoever asked has been told
            return
        try:
            self._engine.submit(frame, compiled.result())
        except Exception as error:
            if self._report(error, frame.seq, loading=False):
                raise

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
        self._mailbox.send(Error(seq=seq, kind=kind, message=verdict.message, rank=verdict.rank or 0, fatal=fatal))
        return fatal

    def _load(self, frame: Load) -> None:
        if self._engine is not None:
            raise RankFailure(f"a model is loaded already; {frame.model_id} needs a group of its own")
        self._mailbox.pong = Pong(rank=0, world_size=len(frame.devices), device=frame.devices[0])
        until = time.monotonic() + frame.load_timeout_s
        progress = self._progress(frame.seq)
        if frame.task != "generate":
            self._load_vectors(frame, progress)
            return
        if self._peers is not None:
            progress("ranks", 0.0)
            self._leader = Leader.assemble(self._peers, frame)
            communicator = self._leader.communicator
            self._mailbox.entered = lambda: communicator.num_entered
        self._tell_loaded(self._bring_up(frame, progress), until)

    def _bring_up(self, frame: Load, progress: Callable[[str, float], None]) -> Loaded:
        """Have the engine, and what is made of it again after a sleep; what this rank says of it."""
        drafter = draft_part.bring_up(frame, progress)
        frame = drafter.load if drafter is not None else frame
        if self._leader is not None:
            self._leader.tell_load(frame)
        part = bring_up(frame, 0, self._leader.communicator if self._leader else None, progress)
        lead = self._leader.leading if self._leader else None
        tokenizer = Path(frame.text_dir, "tokenizer.json").read_text(encoding="utf-8")
        grammars = Grammars(tokenizer, part.model.vocab_size, part.model.eos_ids)
        self._compiling = Compiling(grammars, self._mailbox.call, self._submit)
        draft = partial(PromptLookup, frame.speculative) if frame.speculative is not None else None
        sizes = (frame.max_sequences, part.step_tokens, part.threads)

        draft_bytes = drafter.model.num_bytes if drafter is not None else 0

        def make() -> Loaded:
            drafting = drafter.beside(part, tokenizer) if drafter is not None else None
            engine = Engine(part.model, part.size, *sizes, lead, draft, drafting)
            self._engine = engine
            num_bytes = engine.cache.num_bytes + (drafting.num_bytes if drafting is not None else 0)
            return loaded(frame.seq, part, num_bytes, engine.attends, draft_bytes)

        self._rest = Rest(make, part.model, *([drafter.model] if drafter is not None else []))
        return make()

    def _load_vectors(self, frame: Load, progress: Callable[[str, float], None]) -> None:
        part = vector_part.bring_up(frame, progress)
        engine = VectorEngine(part, self._mailbox.send)  # once: it has no cache, and its model knows it

        def make() -> Loaded:
            self._engine = engine
            return vector_part.loaded(frame.seq, part)

        self._rest = Rest(make, part.model)
        self._mailbox.send(make())

    def _tell_loaded(self, own: Loaded, until: float) -> None:
        self._mailbox.send(self._leader.loaded(own, until - time.monotonic()) if self._leader else own)

    def _sleep(self, frame: Sleep) -> None:
        rest, until = self._at_rest(), time.monotonic() + _WORKERS_SHARE * frame.timeout_s
        if self._leader is not None:
            self._leader.tell(frame)
        self._engine = None
        own = Asleep(seq=frame.seq, host_mb=rest.begin())
        self._mailbox.send(self._leader.asleep(own, until - time.monotonic()) if self._leader else own)

    def _wake(self, frame: Wake) -> None:
        rest, until = self._at_rest(), time.monotonic() + _WORKERS_SHARE * frame.timeout_s
        if self._leader is not None:
            self._leader.tell(frame)
        own = rest.end(self._progress(frame.seq))
        self._tell_loaded(msgspec.structs.replace(own, seq=frame.seq), until)

    def _at_rest(self) -> Rest[Loaded]:
        if self._rest is None:
            raise BadRequest("sleep or wake before load")
        return self._rest

    def _progress(self, seq: int) -> Callable[[str, float], None]:
        return lambda phase, fraction: self._mailbox.send(LoadProgress(seq=seq, phase=phase, fraction=fraction))
