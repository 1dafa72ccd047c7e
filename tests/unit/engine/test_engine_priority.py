"""Who runs next where not all can: the class of the request, then its arrival."""

from __future__ import annotations


def test_a_high_request_overtakes_the_low_that_wait(start, oracle) -> None:
    """And no other class does more than that: within a class it is first come, first served."""
    session = start(sequences=1)
    prompt = oracle[0]["prompt_ids"]
    came = [session.submit(prompt, max_tokens=1, priority=each) for each in ("low", "low", "normal", "high", "normal")]
    session.step()
    late = session.submit(prompt, max_tokens=1, priority="high")
    session.finish()
    first, second, third, fourth, fifth = came
    assert [output.id for step in session.steps for output in step.outputs] == [
        fourth,
        late,
        third,
        fifth,
        first,
        second,
    ]


def test_what_was_put_back_is_overtaken_by_nobody(start, oracle) -> None:
    """Its tokens are there already, and it has been given a seat once: a high newcomer comes after it."""
    session = start(blocks=5, sequences=2)
    old, young = (
        session.submit(prompt, max_tokens=40, ignore_eos=True, priority="low")
        for prompt in (oracle[0]["prompt_ids"][:30], oracle[1]["prompt_ids"][-30:])
    )
    while session.engine.has_work and not (session.steps and session.steps[-1].waiting):
        session.step()
    high = session.submit(oracle[0]["prompt_ids"][:30], max_tokens=1, priority="high")
    put_back_at = len(session.steps)
    session.finish()
    served = [output.id for step in session.steps[put_back_at:] for output in step.outputs if output.id != old]
    assert (served[0], high in served) == (young, True)
