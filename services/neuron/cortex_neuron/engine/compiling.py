"""Sequences whose grammar is being compiled, in a thread, so that those that decode do not wait for it.

Owns: which of them are still wanted when it is done. Does not own: compiling (engine.grammar), or what is done then.
Called by: engine.rank, from the engine's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from cortex_neuron.engine.grammar import Constraint, Grammars
from cortex_neuron.protocol.failures import BadRequest
from cortex_neuron.protocol.frames import Opening, Submit

Compiled = Future[Constraint | None]  # None: there is none, and it need not be


class Compiling:
    """`call` has the engine's thread do something, from any thread; `submit` is done there when a grammar is ready."""

    def __init__(
        self,
        grammars: Grammars,
        call: Callable[[Callable[[], None]], None],
        submit: Callable[[Submit, Compiled], None],
    ) -> None:
        self._grammars, self._call, self._submit = grammars, call, submit
        # One: a machine that serves has no cores to spare, and the tokenizer is built once.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._wanted: set[int] = set()

    def begin(self, frame: Submit) -> None:
        """Compile this one's grammar."""
        assert frame.grammar is not None, "who has none is submitted at once"
        self._wanted.add(frame.id)
        compiled = self._thread.submit(self._compile, frame.grammar, frame.opening)
        compiled.add_done_callback(lambda done: self._call(lambda: self._end(frame, done)))

    def _compile(self, grammar: str, opening: Opening | None) -> Constraint | None:
        try:
            return self._grammars.constraint(grammar, opening)
        except BadRequest:
            if opening is None or opening.required:
                raise
            return None

    def cancel(self, ids: Iterable[int]) -> None:
        """These are not wanted any more."""
        self._wanted.difference_update(ids)

    def _end(self, frame: Submit, done: Compiled) -> None:
        if frame.id in self._wanted:
            self._wanted.discard(frame.id)
            self._submit(frame, done)
