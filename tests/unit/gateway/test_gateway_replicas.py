"""Which of several replicas gets a request."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hand_made_fleets import M, declared, neuron, on

from cortex_contracts.wire.neuron import ModelStatus
from cortex_gateway.fleet.outstanding import Outstanding
from cortex_gateway.fleet.snapshot import Snapshot
from cortex_gateway.forwarding.call import read_brief
from cortex_gateway.routing.circuit import OPENS_AFTER
from cortex_gateway.routing.decide import decide
from cortex_gateway.routing.decision import Forward, Reject, WaitForLoad
from cortex_gateway.routing.prefixes import PrefixMemory, Served, beginnings
from cortex_gateway.routing.rules import Ask, Rules

TURN = b'[{"role":"user","content":"' + b"Tell me of the llamas. " * 100
NEXT_TURN = TURN + b'"},{"role":"assistant","content":"Of which?"},{"role":"user","content":"All."}]'
OTHER = b'[{"role":"user","content":"' + b"Tell me of the alpacas. " * 100


def rules(**outstanding: int) -> Rules:
    return Rules({"m": M}, Outstanding({(name, "m"): count for name, count in outstanding.items()}))


def chosen(snapshot: Snapshot, known: Rules, **ask: Any) -> str:
    decision = decide(snapshot, M, known, Ask(**ask))
    assert isinstance(decision, Forward), decision
    return decision.neuron.name


def open_circuit(known: Rules, name: str) -> None:
    for _ in range(OPENS_AFTER):
        known.circuits.failed((name, "m"), 0.0)


TWO = Snapshot([neuron("aa", on("m")), neuron("bb", on("m"))])


def test_a_conversation_goes_where_its_beginning_was_served() -> None:
    """Though another comes first by name, and has less to do (L13); other conversations do not."""
    known = rules(bb=2)
    known.prefixes.remember(beginnings("m", [TURN]), Served("bb", 0))
    assert chosen(TWO, known, prompt=beginnings("m", [NEXT_TURN])) == "bb"
    assert chosen(TWO, known, prompt=beginnings("m", [OTHER])) == "aa"
    assert chosen(TWO, known) == "aa"


def test_a_conversation_of_responses_keeps_its_beginning_as_it_grows() -> None:
    """Instructions stand before the input, as the chat template has them, wherever they stand in the body (L13)."""
    one = b'{"model":"m","input":[{"role":"user","content":"%s"}' % (b"a" * 600)
    told = b'],"instructions":"%s"}' % (b"i" * 600)
    short = beginnings("m", read_brief(one + told).parts())
    longer = beginnings("m", read_brief(one + b',{"role":"user","content":"b"}' * 9 + told).parts())
    other = beginnings("m", read_brief(one.replace(b"a", b"c") + told).parts())
    assert longer[: len(short)] == short
    assert other[:2] == short[:2]
    assert other[3:] != short[3:]


def test_the_longest_beginning_wins() -> None:
    """A shared system prompt is known to one, the conversation itself to the other."""
    known = rules()
    known.prefixes.remember(beginnings("m", [NEXT_TURN]), Served("bb", 0))
    known.prefixes.remember(beginnings("m", [TURN[:600]]), Served("aa", 0))
    assert chosen(TWO, known, prompt=beginnings("m", [NEXT_TURN])) == "bb"
    assert chosen(TWO, known, prompt=beginnings("m", [TURN[:600]])) == "aa"


def test_a_beginning_of_another_model_is_none() -> None:
    assert not set(beginnings("m", [TURN])) & set(beginnings("n", [TURN]))


def test_a_model_that_was_loaded_anew_or_unloaded_has_lost_its_beginnings() -> None:
    """Its cache went with its processes."""
    known, prompt = rules(), beginnings("m", [TURN])
    known.prefixes.remember(prompt, Served("bb", 1))
    aa = neuron("aa", on("m", loads=1))
    assert chosen(Snapshot([aa, neuron("bb", on("m", loads=1))]), known, prompt=prompt) == "bb"
    assert chosen(Snapshot([aa, neuron("bb", on("m", loads=2))]), known, prompt=prompt) == "aa"
    assert chosen(Snapshot([aa, neuron("bb", on("m", ModelStatus.UNLOADED, loads=1))]), known, prompt=prompt) == "aa"
    assert chosen(Snapshot([aa, neuron("bb")]), known, prompt=prompt) == "aa"
    assert chosen(Snapshot([aa]), known, prompt=prompt) == "aa"


def test_a_beginning_that_all_share_does_not_send_everybody_to_one_neuron() -> None:
    """Beyond a few more requests than the other has, the other reads the prompt once, too."""
    known, prompt = rules(), beginnings("m", [TURN])
    known.prefixes.remember(prompt, Served("bb", 0))
    went = Counter[str]()
    for _ in range(100):
        name = chosen(TWO, known, prompt=prompt)
        known.outstanding.take((name, "m"))
        went[name] += 1
    assert went["bb"] > went["aa"] >= 40


def test_where_it_has_just_failed_or_its_circuit_is_open_a_conversation_goes_elsewhere() -> None:
    known, prompt = rules(), beginnings("m", [TURN])
    known.prefixes.remember(prompt, Served("bb", 0))
    assert chosen(TWO, known, prompt=prompt, avoid=frozenset({"bb"})) == "aa"
    open_circuit(known, "bb")
    assert chosen(TWO, known, prompt=prompt) == "aa"


def test_the_memory_is_bounded_and_keeps_what_was_used_last() -> None:
    """However many prompts there are."""
    memory = PrefixMemory(kept=100)
    mine = beginnings("m", [TURN])
    for number in range(1000):
        memory.remember(beginnings("m", [b"%04d" % number * 500]), Served("aa", 0))
        memory.remember(mine, Served("bb", 0))
        assert len(memory) <= 2 * (100 + len(mine))
    assert all(memory.served(beginning) == Served("bb", 0) for beginning in mine)
    assert memory.served(beginnings("m", [b"0000" * 500])[-1]) is None


def test_a_prompt_has_a_bounded_number_of_beginnings_and_half_a_block_is_none() -> None:
    """What is read of a prompt of 10 MB is 64 KB."""
    assert beginnings("m", [b"x" * 255]) == []
    whole = beginnings("m", [b"x" * 10**7])
    assert len(whole) < 100
    assert beginnings("m", [b"x" * 65536 + b"y"]) == whole
    assert beginnings("m", [b"tools", b"x" * 600]) == beginnings("m", [b"tool", b"s" + b"x" * 600])


def test_of_many_replicas_two_that_are_drawn_are_compared() -> None:
    """The one with less to do gets it, and over all draws nobody is left out."""
    names = [f"n{number:02}" for number in range(40)]
    many = Snapshot([neuron(name, on("m")) for name in names])
    busy = rules(**dict.fromkeys(names[:20], 5))
    went = Counter(chosen(many, busy, draw=draw) for draw in range(1600))
    assert set(went) == set(names)
    assert sum(went[name] for name in names[:20]) == 1600 // 4  # both of two draws are busy ones
    known = rules()
    for name in names[1:]:
        open_circuit(known, name)
    assert {chosen(many, known, draw=draw) for draw in range(50)} == {"n00"}


def test_an_open_circuit_is_avoided_and_tried_again_after_its_pause() -> None:
    """The neuron may answer polls all the while."""
    known = rules()
    open_circuit(known, "aa")
    assert chosen(TWO, known, now=0.5) == "bb"
    assert chosen(TWO, known, now=1.0) == "aa"


def test_where_all_circuits_are_open_it_is_503_until_the_next_probe() -> None:
    """And nothing is loaded elsewhere for it: what made it fail would come along."""
    known = rules()
    snapshot = Snapshot([neuron("aa", on("m")), neuron("bb", on("m")), neuron("cc")])
    open_circuit(known, "aa")
    open_circuit(known, "bb")
    decision = decide(snapshot, M, known, Ask(now=0.2))
    assert isinstance(decision, Reject)
    assert (decision.error.status, decision.error.retry_after_s) == (503, 1)
    loading = Snapshot([neuron("aa", on("m")), neuron("bb", on("m")), neuron("cc", on("m", ModelStatus.LOADING))])
    assert isinstance(decide(loading, M, known, Ask(now=0.2)), WaitForLoad)


def test_another_model_on_the_same_neuron_is_served() -> None:
    """A circuit is of one model: what fails there may be its engine alone."""
    known = Rules({"m": M, "other": declared("other")})
    open_circuit(known, "aa")
    both = Snapshot([neuron("aa", on("m"), on("other"))])
    assert isinstance(decide(both, declared("other"), known), Forward)
