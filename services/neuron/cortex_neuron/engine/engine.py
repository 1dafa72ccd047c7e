"""The engine: submit, cancel, step.

Owns: the sequences and their blocks. Does not own: the policy (engine.scheduler), the model (engine.runner), the draw
(engine.sampler), or the frames' way here (engine.rank, which calls this from one thread).
"""

from __future__ import annotations

import math
import time
from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cortex_neuron.engine.failures import Verdict, classify
from cortex_neuron.engine.grammar import Constraint
from cortex_neuron.engine.kv_cache import BlockPool, CacheSize, KVCache
from cortex_neuron.engine.runner import Runner, Runs
from cortex_neuron.engine.sampler import Drawn, NotFinite, sample
from cortex_neuron.engine.scheduler import Candidate, Limits, Plan, plan_step
from cortex_neuron.engine.sequence import Sequence, State, new_sequence
from cortex_neuron.engine.threads import ThreadPlan
from cortex_neuron.layers.paged import Span
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.protocol.failures import BadRequest
from cortex_neuron.protocol.frames import Output, Stepped, Submit


@dataclass(frozen=True, slots=True)
class Result:
    """What a step came to for one sequence: a token, or why there is none."""

    sequence: Sequence
    drawn: Drawn | NotFinite | Verdict


class Engine:
    """`running` is kept in the order of admission, `waiting` in that of turns.

    `plan`: threads by step, on a CPU that was measured. `lead` makes of a runner one that other ranks run along with.
    """

    def __init__(
        self,
        model: LoadedModel,
        size: CacheSize,
        max_sequences: int,
        step_tokens: int,
        plan: ThreadPlan | None = None,
        lead: Callable[[Runner], Runs] | None = None,
    ) -> None:
        self.model = model
        self.size = size
        self.cache = KVCache(model.shape, size, model.device)
        # Every running sequence can decode in each step: with a smaller budget the youngest would starve.
        self._limits = Limits(max(step_tokens, max_sequences), max_sequences, size.block_size)
        self._pool = BlockPool(size.num_blocks)
        runner = Runner(model, self.cache, size.block_size, plan)
        self._runner: Runs = runner if lead is None else lead(runner)
        self._eos = frozenset(model.eos_ids)
        self._running: list[Sequence] = []
        self._waiting: list[Sequence] = []
        self._num_steps = 0

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    def submit(self, frame: Submit, constraint: Constraint | None = None) -> None:
        """Queue a sequence, with its grammar compiled. Raises BadRequest."""
        if any(s.id == frame.id for s in (*self._running, *self._waiting)):
            raise BadRequest(f"id {frame.id} is in use")
        sequence = new_sequence(frame, self.size.context, self.model.vocab_size, time.monotonic(), constraint)
        insort(self._waiting, sequence, key=_turn)

    def cancel(self, ids: Iterable[int]) -> None:
        """End these sequences; ids that are not here have ended already."""
        gone = set(ids)
        for sequence in [s for s in (*self._running, *self._waiting) if s.id in gone]:
            self._finish(sequence)

    def step(self) -> Stepped:
        """Compute one batch. A fault of this batch ends its sequences; a fault of the device is raised."""
        started_s = time.monotonic()
        plan = self._schedule(started_s)
        results = self._run(plan)
        outputs = self._postprocess(results)
        self._num_steps += 1
        return self.report(outputs, (time.monotonic() - started_s) * 1000)

    def report(self, outputs: list[Output], step_ms: float) -> Stepped:
        """What a step gave, and how the engine stands."""
        return Stepped(
            seq=self._num_steps,
            outputs=outputs,
            running=len(self._running),
            waiting=len(self._waiting),
            kv_blocks_free=self._pool.num_free,
            step_ms=step_ms,
        )

    # ---- schedule

    def _schedule(self, now_s: float) -> Plan:
        plan = plan_step(_view(self._running), _view(self._waiting), self._pool.num_free, self._limits)
        by_id = {s.id: s for s in (*self._running, *self._waiting)}
        for victim in plan.preempted:
            self._preempt(by_id[victim])
        for chunk in plan.chunks:
            sequence = by_id[chunk.id]
            if sequence.state is State.WAITING:
                self._admit(sequence, now_s)
            sequence.table += self._pool.take(chunk.new_blocks)
        return plan

    def _admit(self, sequence: Sequence, now_s: float) -> None:
        self._waiting.remove(sequence)
        sequence.move(State.RUNNING)
        if sequence.started_s is None:
            sequence.started_s = now_s
        self._running.append(sequence)

    def _preempt(self, sequence: Sequence) -> None:
        """Its blocks go to an older one; its tokens stay, and are computed again before any newcomer's."""
        self._running.remove(sequence)
        self._release(sequence)
        sequence.move(State.WAITING)
        sequence.turn = -math.inf
        self._waiting.insert(0, sequence)

    # ---- run

    def _run(self, plan: Plan) -> list[Result]:
        by_id = {s.id: s for s in self._running}
        batch = [(by_id[chunk.id], chunk.tokens) for chunk in plan.chunks]
        try:
            return self._compute(batch) if batch else []
        except Exception as error:
            verdict = classify(error)
            if verdict.fatal:
                raise
            return [Result(sequence, verdict) for sequence, _ in batch]

    def _compute(self, batch: list[tuple[Sequence, int]]) -> list[Result]:
        spans = [Span(s.tokens[s.computed : s.computed + n], s.computed, s.table) for s, n in batch]
        wanted = [i for i, (s, n) in enumerate(batch) if s.computed + n == len(s.tokens)]
        logits = self._runner.run(spans, wanted)
        for sequence, num_tokens in batch:
            sequence.computed += num_tokens
        sequences = [batch[i][0] for i in wanted]
        return [Result(s, drawn) for s, drawn in zip(sequences, sample(logits, sequences), strict=True)]

    # ---- postprocess

    def _postprocess(self, results: list[Result]) -> list[Output]:
        now_s = time.monotonic()
        return [self._output(result.sequence, result.drawn, now_s) for result in results]

    def _output(self, sequence: Sequence, drawn: Drawn | NotFinite | Verdict, now_s: float) -> Output:
        if not isinstance(drawn, Drawn):
            self._finish(sequence)
            return Output(id=sequence.id, tokens=[], finish="error", error_kind=drawn.kind, error=drawn.message)
        first = len(sequence.tokens) == sequence.prompt_length
        sequence.tokens.append(drawn.token)
        finish = self._ending(sequence)
        if finish:
            self._finish(sequence)
        started_s = sequence.started_s or now_s
        return Output(
            id=sequence.id,
            tokens=[drawn.token],
            finish=finish,
            logprobs=None if drawn.logprobs is None else [drawn.logprobs],
            queue_ms=(started_s - sequence.submitted_s) * 1000 if first else 0.0,
            prefill_ms=(now_s - started_s) * 1000 if first else 0.0,
        )

    def _ending(self, sequence: Sequence) -> str | None:
        if sequence.tokens[-1] in self._eos and not sequence.ignore_eos:
            return "stop"
        if sequence.constraint is not None and sequence.constraint.ended:
            return "stop"
        return "length" if len(sequence.tokens) >= sequence.max_length else None

    # ---- the end of a sequence

    def _finish(self, sequence: Sequence) -> None:
        (self._running if sequence.state is State.RUNNING else self._waiting).remove(sequence)
        self._release(sequence)
        sequence.move(State.FINISHED)

    def _release(self, sequence: Sequence) -> None:
        self._pool.give_back(sequence.table)
        sequence.table = []
        sequence.computed = 0


def _turn(sequence: Sequence) -> float:
    return sequence.turn


def _view(sequences: list[Sequence]) -> list[Candidate]:
    return [Candidate(s.id, len(s.tokens), s.computed, len(s.table)) for s in sequences]
