"""What a fault costs: one request where that is enough, the group where the device is gone."""

from __future__ import annotations

import array

import pytest
import torch

from cortex_neuron.engine.failures import classify
from cortex_neuron.engine.sequence import IllegalTransition, State
from cortex_neuron.protocol.failures import BadRequest, CannotLoad
from cortex_neuron.protocol.frames import SamplingParams, Submit


def _chained(inner: BaseException, outer: BaseException) -> BaseException:
    try:
        try:
            raise inner
        except BaseException as error:
            raise outer from error
    except BaseException as error:
        return error


@pytest.mark.parametrize(
    ("error", "kind", "fatal"),
    [
        (ValueError("shape mismatch"), "engine_error", False),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), "engine_error", False),
        (
            _chained(RuntimeError("CUDA error: device-side assert triggered"), ValueError("bad step")),
            "device_lost",
            True,
        ),
        (_chained(torch.OutOfMemoryError("tried to allocate"), RuntimeError("step failed")), "out_of_memory", True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out_of_memory", True),
        (MemoryError(), "out_of_memory", True),
        (BadRequest("id 3 is in use"), "bad_request", False),
        (_chained(KeyError("config.json"), CannotLoad("x")), "load_failed", True),
    ],
)
def test_a_fault_is_told_by_its_whole_chain_of_causes(error, kind, fatal) -> None:
    """The outermost words often hide the device's (case T5)."""
    verdict = classify(error)
    assert (verdict.kind, verdict.fatal) == (kind, fatal)
    assert str(error) in verdict.message


def test_an_error_handled_and_replaced_does_not_count() -> None:
    """`raise … from None` says that the first one does not matter."""
    replaced = ValueError("unrelated")
    replaced.__context__, replaced.__suppress_context__ = MemoryError(), True
    assert classify(replaced).kind == "engine_error"


def test_a_host_error_in_a_step_fails_its_requests_and_not_the_model(start, oracle, parts, monkeypatch) -> None:
    """The batch at hand ends with an error, its blocks come back, the next request is served (case T5)."""
    session = start(blocks=64)
    ids = [session.submit(p["prompt_ids"]) for p in oracle[:3]]
    session.step()
    runner = type(session.engine._runner)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "run", lambda *_: torch.zeros(2, 3) @ torch.zeros(2, 3))
        stepped = session.step()
    assert {o.id: (o.finish, o.error_kind) for o in stepped.outputs} == dict.fromkeys(ids, ("error", "engine_error"))
    assert "RuntimeError" in stepped.outputs[0].error
    assert (stepped.running, stepped.kv_blocks_free) == (0, 64)
    assert parts(oracle[0], session.ask(oracle[0]["prompt_ids"], max_tokens=8).tokens, 8) is None


def test_a_device_error_in_a_step_is_not_kept_from_the_group(start, oracle, monkeypatch) -> None:
    """It is raised, for the rank to report as fatal."""
    session = start(blocks=64)
    session.submit(oracle[0]["prompt_ids"])

    def fail(*_):
        raise RuntimeError("step") from RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(type(session.engine._runner), "run", fail)
    with pytest.raises(RuntimeError, match="step"):
        session.step()


def test_nan_in_one_row_ends_that_request_only(start, oracle, parts) -> None:
    """The error names counts; the others' answers are the reference's, even over reused blocks (case T12)."""
    session = start(blocks=12, sequences=3)
    prompts = [oracle[1], oracle[0], oracle[2]]  # the first is longer than the second
    ids = [session.submit(p["prompt_ids"], max_tokens=10) for p in prompts]
    session.step()
    seats = session.engine._seats
    table = seats.table(seats.sequences[0])[1:]  # what all chat prompts begin with is in the block before, and shared
    for caches in (session.engine.cache.keys, session.engine.cache.values):
        caches[3][table] = float("nan")
    session.finish()
    last = session.answers[ids[0]].last
    assert (last.finish, last.error_kind, last.tokens) == ("error", "non_finite_logits", [])
    assert last.error == "49152 NaN and 0 infinite logits of 49152"
    assert [parts(p, session.answers[i].tokens, 10) for p, i in zip(prompts[1:], ids[1:], strict=True)] == [None, None]
    # The pool is small: others get the blocks that still hold the NaN, and are padded with what is in them. Nobody
    # finds them: the prompt that they were computed for is computed again.
    again = [session.submit(p["prompt_ids"], max_tokens=10) for p in prompts]
    session.finish()
    assert [parts(p, session.answers[i].tokens, 10) for p, i in zip(prompts, again, strict=True)] == [None] * 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": b""}, "prompt has no tokens"),
        ({"prompt": b"abc"}, "prompt of 3 bytes is not a row of int32"),
        (
            {"prompt": array.array("i", [49152]).tobytes()},
            "prompt has token id 49152, outside of the vocabulary of 49152",
        ),
        (
            {"prompt": array.array("i", [5] * 128).tobytes()},
            "prompt has 128 tokens, and the context of 128 leaves no room",
        ),
        ({"max_tokens": 0}, "max_tokens is 0, must be at least 1"),
        ({"prompt_logprobs": True}, "prompt_logprobs is not supported"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"sampling": SamplingParams(logit_bias={-4: 1.0})}, "logit_bias has token id -4"),
        ({"sampling": SamplingParams(temperature=float("nan"))}, "temperature is nan, must be from 0"),
        ({"sampling": SamplingParams(repetition_penalty=0.0)}, "repetition_penalty is 0.0, must be from 0.001"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_by_name(start, change, words) -> None:
    """Before it gets a seat; the message names the field and the value."""
    frame = {"id": 1, "prompt": array.array("i", [5]).tobytes(), "max_tokens": 5, "sampling": SamplingParams()} | change
    session = start(blocks=8)
    with pytest.raises(BadRequest, match=words):
        session.engine.submit(Submit(**frame))
    assert not session.engine.has_work


def test_an_id_in_use_is_refused(start) -> None:
    """Outputs are told apart by it."""
    session = start(blocks=8)
    frame = Submit(id=5, prompt=array.array("i", [5]).tobytes(), max_tokens=5, sampling=SamplingParams())
    session.engine.submit(frame)
    with pytest.raises(BadRequest, match="id 5 is in use"):
        session.engine.submit(frame)


def test_a_finished_sequence_cannot_come_back(start) -> None:
    """The table of states has no way out of finished."""
    session = start(blocks=8)
    session.submit([5], max_tokens=1)
    session.step()
    session.submit([5], max_tokens=3)
    sequence = session.engine._waiting[0]
    sequence.move(State.FINISHED)
    with pytest.raises(IllegalTransition, match="cannot go from finished to running"):
        sequence.move(State.RUNNING)
