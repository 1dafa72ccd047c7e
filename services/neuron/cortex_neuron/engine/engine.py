"""The engine: submit, cancel, step.

Owns: the sequences. Does not own: the policy (engine.scheduler), blocks (engine.block_pool), what is known of the
running ones side by side (engine.seats), the model (engine.runner), what it gives (engine.draws), guesses of that
(engine.prompt_lookup, engine.draft_model), or the frames' way here (engine.rank, which calls this from one thread).
"""

from __future__ import annotations

import math
import time
from bisect import insort
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial

import numpy as np

from cortex_neuron.engine.block_pool import START, BlockPool, Name, Trail
from cortex_neuron.engine.draft_model import DraftModel
from cortex_neuron.engine.draws import Given
from cortex_neuron.engine.failures import Verdict, classify
from cortex_neuron.engine.flight import Flight
from cortex_neuron.engine.grammar import Constraint
from cortex_neuron.engine.kv_cache import CacheSize, KVCache
from cortex_neuron.engine.runner import Runs, runner_for
from cortex_neuron.engine.sampler import NotFinite
from cortex_neuron.engine.scheduler import Limits, Newcomer, Plan, Supply, most_step_tokens, plan_step
from cortex_neuron.engine.seats import Seats, Work
from cortex_neuron.engine.sequence import Drafts, Sequence, State, new_sequence
from cortex_neuron.engine.threads import ThreadPlan
from cortex_neuron.layers.batch import Ints
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.protocol.failures import BadRequest
from cortex_neuron.protocol.frames import Output, Stepped, Submit

# Beyond so many rows a step is bound by arithmetic: a drafted row costs as much as a token, and nothing is won.
CPU_DRAFT_ROWS = 12
GPU_DRAFT_ROWS = 64  # not measured; where weights are read in the time of some hundred rows, it is on the safe side


class Engine:
    """`waiting` is kept in the order of turns.

    `plan`: threads by step, on a CPU that was measured. `lead` makes of a runner one that other ranks run along with.
    `draft` makes what guesses for one sequence of up to so many tokens, or `draft_model` guesses for all; without them
    each step gives one token. `overlaps`: the next step is given to the device before this one's tokens are known here;
    None: where that gains time, which is on one GPU without drafts.
    """

    def __init__(
        self,
        model: LoadedModel,
        size: CacheSize,
        max_sequences: int,
        step_tokens: int,
        plan: ThreadPlan | None = None,
        lead: Callable[[Runs], Runs] | None = None,
        draft: Callable[[int], Drafts] | None = None,
        draft_model: DraftModel | None = None,
        overlaps: bool | None = None,
    ) -> None:
        self.model = model
        self.size = size
        self.cache = KVCache(model.shape, size, model.device)
        most_tokens = most_step_tokens(step_tokens, max_sequences)
        draft_rows = CPU_DRAFT_ROWS if model.device.type == "cpu" else GPU_DRAFT_ROWS
        self._draft_model = draft_model
        self._draft = draft_model.blanks if draft_model is not None else draft
        self._limits = Limits(most_tokens, max_sequences, size.block_size, draft_rows if self._draft else 0)
        self._pool = BlockPool(size.num_blocks)
        self._seats = Seats(max_sequences, -(-size.context // size.block_size), size.block_size)
        runner = runner_for(model, self.cache, plan, max_sequences)
        self._runner: Runs = runner if lead is None else lead(runner)
        can_overlap = model.device.type == "cuda" and lead is None and self._draft is None
        self._overlaps = can_overlap if overlaps is None else overlaps
        self._flight: Flight | None = None
        self.attends = runner.attends + ("; steps overlap" if self._overlaps else "")
        self._eos = frozenset(model.eos_ids)
        self._by_id: dict[int, Sequence] = {}
        self._waiting: list[Sequence] = []
        self._num_steps = self._num_drafted = self._num_accepted = 0

    @property
    def has_work(self) -> bool:
        return bool(self._by_id)

    def submit(self, frame: Submit, constraint: Constraint | None = None) -> None:
        """Queue a sequence, with its grammar compiled. Raises BadRequest."""
        if frame.id in self._by_id:
            raise BadRequest(f"id {frame.id} is in use")
        sequence = new_sequence(frame, self.size.context, self.model.vocab_size, time.monotonic(), constraint)
        if self._draft is not None:
            sequence.drafts = self._draft(sequence.max_length)
        self._by_id[frame.id] = sequence
        insort(self._waiting, sequence, key=_turn)

    def cancel(self, ids: Iterable[int]) -> None:
        """End these sequences; ids that are not here have ended already."""
        for sequence in [self._by_id[each] for each in set(ids) if each in self._by_id]:
            self._finish(sequence)
        if not self._by_id:
            self._flight = None

    def step(self) -> Stepped:
        """What one batch has come to; where steps overlap, the device has the next one by then. A fault of this batch
        ends its sequences; a fault of the device is raised."""
        started_s = time.monotonic()
        flight, self._flight = self._flight or self._draw(self._launch(started_s)), None
        if self._overlaps and flight is not None and flight.fault is None:
            self._flight = self._launch(started_s, flight)
        outputs = self._land(flight) if flight is not None else []
        del flight  # what it holds on the device goes before the next draw takes as much
        self._flight = self._draw(self._flight) if self._by_id else None
        self._num_steps += 1
        return self.report(outputs, (time.monotonic() - started_s) * 1000)

    def report(self, outputs: list[Output], step_ms: float) -> Stepped:
        """What a step gave, and how the engine stands."""
        return Stepped(
            seq=self._num_steps,
            outputs=outputs,
            running=len(self._seats),
            waiting=len(self._waiting),
            kv_blocks_free=self._pool.num_free,
            step_ms=step_ms,
            drafted=self._num_drafted,
            accepted=self._num_accepted,
        )

    # ---- schedule

    def _schedule(self, now_s: float, follows: bool) -> Work | None:
        """None: there is nothing to compute, or a sequence has to give way. That is decided when it is known which have
        come to their ends."""
        seats, plan = self._seats, self._plan()
        if follows and plan.preempted:
            return None
        old = list(seats.sequences)
        for victim in reversed(old[len(old) - plan.preempted :]):
            self._preempt(victim)
        chosen = [self._waiting[chunk.place] for chunk in plan.admitted]
        for sequence in chosen:
            self._admit(sequence)
        seats.grow(plan.growing, self._take(len(plan.growing)))
        chunks = [(old[chunk.place], chunk) for chunk in plan.chunks]
        chunks += [(each, chunk) for each, chunk in zip(chosen, plan.admitted, strict=True) if chunk.tokens]
        for sequence, chunk in chunks:
            seats.extend(sequence, self._take(chunk.new_blocks))
            if sequence.started_s is None:
                sequence.started_s = now_s
        parts = [(sequence, chunk.tokens) for sequence, chunk in chunks]
        drafts = self._propose(plan, old) if plan.drafts else []
        if not drafts:
            return seats.work(plan.decode, parts) if len(plan.decode) or parts else None
        others = np.setdiff1d(plan.decode, [place for place, _ in drafts], assume_unique=True)
        return seats.work(others, parts, [(old[place], draft) for place, draft in drafts])

    def _propose(self, plan: Plan, old: list[Sequence]) -> list[tuple[int, Ints]]:
        """Drafts by place, for the oldest that decode first. They take no block that is needed to decode on."""
        left, spare, size = plan.drafts, self._pool.num_free - len(plan.decode), self.size.block_size
        drafts: list[tuple[int, Ints]] = []
        for place in plan.decode.tolist():
            sequence, room = old[place], self._seats.room(old[place])
            assert sequence.drafts is not None, "the engine drafts, so each has them"
            most = min(left, sequence.max_length - sequence.length - 1, room + max(0, spare) * size)
            draft = sequence.drafts.propose(sequence.tokens, most)
            if len(draft):
                blocks = self._take(-(-max(0, len(draft) - room) // size))
                self._seats.extend(sequence, blocks)
                left, spare = left - len(draft), spare - len(blocks)
                drafts.append((place, draft))
        return self._guess(drafts, old) if drafts and self._draft_model is not None else drafts

    def _guess(self, blanks: list[tuple[int, Ints]], old: list[Sequence]) -> list[tuple[int, Ints]]:
        """Drafts in the place of blanks. A draft model that fails has guessed wrong: nobody's answer depends on it."""
        assert self._draft_model is not None, "it is what leaves blanks"
        try:
            drafts = self._draft_model.guess([(old[place], blank) for place, blank in blanks], self._seats.tables)
        except Exception as error:
            if classify(error).fatal:
                raise
            for place, blank in blanks:
                self._judge(old[place], len(blank), 0)
            return []
        return [(place, draft) for (place, _), draft in zip(blanks, drafts, strict=True) if len(draft)]

    def _take(self, count: int) -> list[int]:
        """Blocks of nobody's, with nothing in them that counts."""
        blocks = self._pool.take(count)
        if self._draft_model is not None:
            self._draft_model.renew(blocks)
        return blocks

    def _plan(self) -> Plan:
        is_open = bool(self._waiting) and self._seats.num_vacant > 0
        newcomers = self._newcomers() if is_open else ()
        computing = self._computing() if is_open else frozenset()
        supply = Supply(self._pool.num_free, self._freed_by)
        return plan_step(self._seats.running(), newcomers, computing, supply, self._limits)

    def _newcomers(self) -> Iterator[Newcomer]:
        """As the scheduler sees them. The last token of each is to be computed: its logits are wanted."""
        size = self.size.block_size
        for sequence in self._waiting:
            most = (sequence.length - 1) // size
            trail = self._pool.follow(sequence.trail, partial(sequence.piece, block_size=size), most)
            found = len(trail.blocks)
            # One that was put back has been given a seat once: nobody passes it.
            can_wait = found < most and sequence.turn > -math.inf
            begins_with = (trail.end, sequence.piece(found, size)) if can_wait else None
            yield Newcomer(sequence.length, found * size, self._pool.num_idle(trail), begins_with)

    def _computing(self) -> frozenset[Hashable]:
        """The blocks that running prompts compute next: who waits for one finds it soon."""
        running, sequences = self._seats.running(), self._seats.sequences
        prompts = np.flatnonzero(running.known - running.computed > 1).tolist()
        ends = (running.computed // self.size.block_size + 1) * self.size.block_size
        full = [place for place in prompts if ends[place] <= running.known[place]]
        return frozenset(self._next_name(sequences[place], int(running.computed[place])) for place in full)

    def _next_name(self, sequence: Sequence, computed: int) -> Name:
        index = computed // self.size.block_size
        mark = self._pool.mark(int(self._seats.tables[sequence.seat, index - 1])) if index else START
        return mark, sequence.piece(index, self.size.block_size)

    def _freed_by(self, youngest: int) -> int:
        sequences = self._seats.sequences
        return self._pool.num_freed_by(self._seats.table(each) for each in sequences[len(sequences) - youngest :])

    def _admit(self, sequence: Sequence) -> None:
        """Give it a seat, and what of it is in the cache."""
        self._waiting.remove(sequence)
        sequence.move(State.RUNNING)
        cached = sequence.trail.blocks
        self._pool.hold(cached)
        self._seats.take(sequence, cached)
        if self._draft_model is not None:
            self._draft_model.join(sequence, cached)
        if sequence.cached is None:
            sequence.cached = len(cached) * self.size.block_size
        sequence.trail = Trail()

    def _preempt(self, sequence: Sequence) -> None:
        """Its blocks go to an older one; its tokens stay, and are computed again before any newcomer's."""
        self._pool.give_back(self._seats.leave(sequence))
        sequence.move(State.WAITING)
        sequence.turn = -math.inf
        self._waiting.insert(0, sequence)

    # ---- run

    def _launch(self, now_s: float, after: Flight | None = None) -> Flight | None:
        """Give the runner the next step, which may be `after` one whose tokens are still being drawn."""
        work = self._schedule(now_s, after is not None)
        if work is None:
            return None
        try:
            flight = Flight(work, self._runner.run(work.batch, after.drawn if after is not None else None))
        except Exception as error:  # noqa: BLE001  the device's is raised
            flight = Flight(work, _survived(error))
        self._seats.advance(work)
        return flight

    def _draw(self, flight: Flight | None) -> Flight | None:
        """Have its tokens drawn, as those before them are known. With drafts, whoever reads them draws."""
        if flight is None or flight.fault is not None or flight.work.drafts:
            return flight
        try:
            sequences = flight.draw()
            if self._overlaps:
                self._seats.await_tokens(flight.work, sequences)
        except Exception as error:  # noqa: BLE001  the device's is raised
            flight.fault = _survived(error)
        self._publish(flight)
        return flight

    def _land(self, flight: Flight) -> list[Output]:
        try:
            sequences, given = flight.read(self._eos) if flight.fault is None else ([], [])
        except Exception as error:  # noqa: BLE001  the device's is raised
            flight.fault = _survived(error)
        if flight.fault is not None:
            return [self._fail(sequence, flight.fault) for sequence in flight.still(flight.work.sequences)]
        if self._flight is None:
            self._seats.settle(flight.work, sequences, [each.tokens for each in given])
        if flight.work.drafts:
            self._publish(flight)
            self._learn(flight.work, given)
        outputs = self._postprocess(sequences, given)
        if self._flight is not None:
            for sequence in filter(self._flight.counts_for, flight.corrected):
                self._flight.leave_out(sequence)
                self._seats.rewind(sequence)
        return outputs

    def _learn(self, work: Work, given: list[Given]) -> None:
        """Tell those who drafted what came of it."""
        for sequence, draft, each in zip(work.wanted, work.drafts, given, strict=True):
            if draft:
                self._judge(sequence, len(draft), each.accepted)
                if self._draft_model is not None:
                    self._draft_model.settle(sequence)

    def _judge(self, sequence: Sequence, drafted: int, accepted: int) -> None:
        assert sequence.drafts is not None, "the engine drafts, so each has them"
        sequence.drafts.learn(drafted, accepted)
        self._num_drafted += drafted
        self._num_accepted += accepted

    def _publish(self, flight: Flight) -> None:
        """Make findable the blocks that this step fills: whoever finds one reads it in a later step."""
        pool, size = self._pool, self.size.block_size
        for sequence, first, blocks in self._seats.filled(flight.work):
            if not flight.counts_for(sequence):
                continue
            mark = pool.mark(blocks[0]) if first else START
            for index, block in enumerate(blocks[1:] if first else blocks, first):
                named = pool.publish(block, (mark, sequence.piece(index, size)))
                if named != block:
                    self._seats.replace_block(sequence, index, named)
                    if self._draft_model is not None:
                        self._draft_model.replace(sequence, index, named)
                mark = pool.mark(named)

    # ---- postprocess

    def _postprocess(self, sequences: list[Sequence], given: list[Given]) -> list[Output]:
        now_s = time.monotonic()
        outputs: list[Output] = []
        for sequence, each in zip(sequences, given, strict=True):
            if each.tokens:  # also of one that failed after a draft of its own: without drafts they had been told
                outputs.append(self._output(sequence, each, now_s))
            if each.fault is not None:
                end = self._spoil if isinstance(each.fault, NotFinite) else self._fail
                outputs.append(end(sequence, each.fault))
        return outputs

    def _output(self, sequence: Sequence, given: Given, now_s: float) -> Output:
        if given.finish is not None:
            self._finish(sequence)
        if sequence.length - len(given.tokens) > sequence.prompt_length:
            return Output(sequence.id, given.tokens, given.finish, given.logprobs, opened_at=given.opened_at)
        started_s = sequence.started_s or now_s
        return Output(
            id=sequence.id,
            tokens=given.tokens,
            finish=given.finish,
            logprobs=given.logprobs,
            cached_tokens=sequence.cached or 0,
            queue_ms=(started_s - sequence.submitted_s) * 1000,
            prefill_ms=(now_s - started_s) * 1000,
            opened_at=given.opened_at,
        )

    def _spoil(self, sequence: Sequence, fault: NotFinite | Verdict) -> Output:
        """End one whose blocks may hold NaN: nobody is to find them."""
        self._pool.forget(self._seats.table(sequence))
        for each in self._waiting:
            each.trail = Trail()
        return self._fail(sequence, fault)

    def _fail(self, sequence: Sequence, fault: NotFinite | Verdict) -> Output:
        self._finish(sequence)
        return Output(sequence.id, [], finish="error", error_kind=fault.kind, error=fault.message)

    def _finish(self, sequence: Sequence) -> None:
        if self._flight is not None:
            self._flight.leave_out(sequence)
        if sequence.state is State.RUNNING:
            self._pool.give_back(self._seats.leave(sequence))
        else:
            self._waiting.remove(sequence)
        sequence.move(State.FINISHED)
        del self._by_id[sequence.id]


def _survived(error: Exception) -> Verdict:
    """The fault of one batch. Raises the device's."""
    verdict = classify(error)
    if verdict.fatal:
        raise error
    return verdict


def _turn(sequence: Sequence) -> float:
    return sequence.turn
