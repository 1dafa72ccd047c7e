"""A rank above 0: it does what its leader says, and answers each request once.

Owns: the loop over the leader's frames, and what is told to whom when something fails: a fatal fault goes to the daemon
at once, for the leader may be waiting in a collective. Does not own: its part of the model (engine.part) or sequences,
which only the leader knows. Called by: engine.rank.main.
"""

from __future__ import annotations

import msgspec
import zmq

from cortex_neuron.engine.communicator import Communicator, initialised, join
from cortex_neuron.engine.failures import Verdict, classify
from cortex_neuron.engine.kv_cache import KVCache
from cortex_neuron.engine.leader import VERDICT_S
from cortex_neuron.engine.mailbox import Mailbox
from cortex_neuron.engine.part import bring_up, loaded
from cortex_neuron.engine.rest import Rest
from cortex_neuron.engine.runner import Runner
from cortex_neuron.engine.step_frame import unpack
from cortex_neuron.protocol.addresses import identity, peers_address
from cortex_neuron.protocol.failures import BadRequest
from cortex_neuron.protocol.frames import (
    Asleep,
    Bye,
    Error,
    FrameInvalid,
    FromWorker,
    Init,
    InitOk,
    Load,
    Loaded,
    Measure,
    Ping,
    Pong,
    Resume,
    SanityCheck,
    SanityResult,
    Shutdown,
    Sleep,
    Step,
    StepDone,
    ToWorker,
    Wake,
    decode_to_worker,
    encode,
)


class LeaderLine:
    """The worker's end of the leader's socket."""

    def __init__(self, address: str, rank: int) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.identity = identity(rank)
        self._socket.linger = 1000
        self._socket.connect(peers_address(address))

    def send(self, frame: FromWorker) -> None:
        self._socket.send(encode(frame))

    def receive(self) -> ToWorker:
        """The next frame. Raises FrameInvalid."""
        return decode_to_worker(self._socket.recv())

    def has_frame(self, timeout_s: float) -> bool:
        """Whether one comes within the time."""
        return bool(self._socket.poll(int(timeout_s * 1000)))

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class Worker:
    """One worker's life, from hello to bye."""

    def __init__(self, mailbox: Mailbox, line: LeaderLine, rank: int) -> None:
        self._mailbox, self._line, self._rank = mailbox, line, rank
        self._communicator: Communicator | None = None
        self._runner: Runner | None = None
        self._rest: Rest[Loaded] | None = None
        self._block_size = 0

    def serve(self) -> None:
        """Until shutdown. Raises what is fatal; the daemon has been told."""
        self.reply(self._mailbox.pong)
        while True:
            frame = self._next()
            if frame is None:
                continue
            if isinstance(frame, Shutdown):
                self.perform(frame)
                self.reply(Bye(seq=frame.seq))
                return
            self._answer(frame)

    def reply(self, frame: FromWorker) -> None:
        """Answer the leader."""
        self._line.send(frame)

    def perform(self, frame: ToWorker) -> FromWorker | None:
        """Do what is asked; None where nothing is to be answered."""
        match frame:
            case Ping():
                pong = self._mailbox.pong
                return Pong(seq=frame.seq, rank=pong.rank, world_size=pong.world_size, device=pong.device)
            case Init():
                self._init(frame)
                return InitOk(seq=frame.seq)
            case SanityCheck():
                return SanityResult(seq=frame.seq, observed_sum=initialised(self._communicator).observed_sum())
            case Load():
                return self._load(frame)
            case Sleep():
                self._runner = None
                return Asleep(seq=frame.seq, host_mb=self._at_rest().begin())
            case Wake():
                return msgspec.structs.replace(self._at_rest().end(lambda *_: None), seq=frame.seq)
            case Step():
                self._step(frame)
                return StepDone(seq=frame.seq)
            case Measure():
                raise BadRequest("measure: this group is for a model")
            case Shutdown():
                self._runner = None  # graphs go before the communicator that is in them
                return None
            case Resume():
                return None

    # ----

    def _next(self) -> ToWorker | None:
        try:
            return self._line.receive()
        except FrameInvalid as invalid:
            self.reply(Error(seq=invalid.seq, kind=invalid.kind, message=str(invalid), rank=self._rank))
            return None

    def _answer(self, frame: ToWorker) -> None:
        entered = self._entered()
        try:
            answer = self.perform(frame)
        except Exception as error:
            verdict = classify(error)
            fatal = verdict.fatal or not isinstance(frame, Step)
            if fatal and verdict.kind == "engine_error":
                verdict = Verdict("load_failed", verdict.message, True)
            self._tell(frame.seq, verdict, fatal, self._entered() - entered)
            if fatal or not self._resumes(verdict):
                raise
            return
        if answer is not None:
            self.reply(answer)

    def _tell(self, seq: int, verdict: Verdict, fatal: bool, entered: int) -> None:
        error = Error(
            seq=seq, kind=verdict.kind, message=verdict.message, rank=self._rank, fatal=fatal, entered=entered
        )
        if fatal:
            self._mailbox.send(error)
        self.reply(error)

    def _resumes(self, failure: Verdict) -> bool:
        """Whether the leader says that the step failed alike on all ranks. Where it does not, it computes on and waits
        for this rank for ever: the daemon is told."""
        if self._line.has_frame(1.5 * VERDICT_S):
            return True
        message = f"rank {self._rank} alone failed in a step: {failure.message}"
        self._mailbox.send(Error(kind="ranks_diverged", message=message, rank=self._rank, fatal=True))
        return False

    def _entered(self) -> int:
        return self._communicator.num_entered if self._communicator is not None else 0

    def _init(self, frame: Init) -> None:
        if self._communicator is not None:
            raise BadRequest("init: there is a communicator already")
        device = frame.devices[self._rank]
        self._mailbox.pong = Pong(rank=self._rank, world_size=frame.world_size, device=device)
        self._communicator = join(frame.comm_id, self._rank, frame.world_size, device, frame.timeout_s)
        self._mailbox.entered = self._entered

    def _load(self, frame: Load) -> Loaded:
        communicator = initialised(self._communicator)
        part = bring_up(frame, self._rank, communicator, lambda *_: None)
        model = part.model
        self._block_size = part.size.block_size

        def make() -> Loaded:
            cache = KVCache(model.shape, part.size, model.device)
            self._runner = Runner(model, cache, None, frame.max_sequences)
            return loaded(frame.seq, part, cache.num_bytes, self._runner.attends)

        self._rest = Rest(make, model)
        return make()

    def _at_rest(self) -> Rest[Loaded]:
        if self._rest is None:
            raise BadRequest("sleep or wake before load")
        return self._rest

    def _step(self, frame: Step) -> None:
        if self._runner is None:
            raise BadRequest("step before load")
        self._runner.run(unpack(frame, self._block_size))
