"""What becomes of a sequence whose grammar is compiled beside the engine's thread."""

from __future__ import annotations

from queue import Queue
from typing import Any

from scripted_model import byte_tokenizer

from cortex_neuron.engine.compiling import Compiling
from cortex_neuron.engine.grammar import Constraint, Grammars
from cortex_neuron.protocol.failures import BadRequest
from cortex_neuron.protocol.frames import Opening, SamplingParams, Submit

VOCABULARY, EOS, MARK = 272, 256, 258


def compiled(tokenizer: str, opening: Opening | None) -> Constraint | Exception | None:
    """What comes of a sequence's grammar in the thread that compiles."""
    done: Queue[Any] = Queue()
    compiling = Compiling(Grammars(tokenizer, VOCABULARY, [EOS]), lambda work: work(), lambda _, each: done.put(each))
    frame = Submit(id=1, prompt=b"", max_tokens=1, sampling=SamplingParams(), grammar='start: "a"', opening=opening)
    compiling.begin(frame)
    future = done.get(timeout=60)
    failure: Exception | None = future.exception()
    return future.result() if failure is None else failure


def test_who_can_do_without_a_grammar_goes_on_without() -> None:
    """A tokenizer that no grammar can be kept to costs a request with tools nothing, unless it asked for more."""
    free, strict = Opening(tokens=[MARK], required=False), Opening(tokens=[MARK])
    assert compiled("{}", free) is None
    assert isinstance(compiled("{}", strict), BadRequest)
    assert isinstance(compiled("{}", None), BadRequest)
    assert isinstance(compiled(byte_tokenizer().to_str(), free), Constraint)
