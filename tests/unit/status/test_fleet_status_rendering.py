"""What people see, from documents that were really asked for over sockets."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from cortex_contracts.inventory.fleet import Fleet, GatewayHost, Model, NeuronHost
from cortex_status.fleet_status.asking import ask
from cortex_status.fleet_status.document import Document, document, unusable
from cortex_status.fleet_status.rendering import parts

Answers = dict[str, Any]
Serve = Callable[[Answers], Awaitable[int]]


class Asked:
    """A fleet of one gateway, one live neuron and one dead neuron, and what they said."""

    def __init__(self, fleet: Fleet, seen: Document) -> None:
        self.fleet = fleet
        self.seen = seen

    def shown(self, width: int = 250, **options: Any) -> str:
        console = Console(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False, **options)
        for part in parts(self.seen, self.fleet):
            console.print(part)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    def line(self, *words: str) -> list[str]:
        """The columns of the one line that has all these words."""
        (line,) = [line for line in self.shown().splitlines() if all(word in line for word in words)]
        return line.split()


@pytest.fixture
def ask_them(serve: Serve, neuron_answers: Answers, gateway_answers: Answers) -> Callable[[], Awaitable[Asked]]:
    async def asked() -> Asked:
        fleet = Fleet(
            gateways=(GatewayHost(name="gw", address="127.0.0.1", listen=f"0.0.0.0:{await serve(gateway_answers)}"),),
            neurons=(
                NeuronHost(name="rack1", address="127.0.0.1", port=await serve(neuron_answers)),
                NeuronHost(name="rack2", address="127.0.0.1", port=1),
            ),
            models=tuple(Model(id=name, source="x", vram_mb=1) for name in ("qwen3-8b", "gemma", "llama")),
        )
        return Asked(fleet, document(fleet, await ask(fleet, 5.0), datetime.now(UTC)))

    return asked


async def test_every_fact_of_the_fleet_has_its_place(ask_them: Callable[[], Awaitable[Asked]]) -> None:
    """Gateways, hosts, devices with memory, models with state, progress and load, requests in flight, versions."""
    asked = await ask_them()
    assert asked.line("gw", "http", "ok")[2:] == ["ok", "0.1.0", "1m", "1s", "1/1", "3", "5"]
    assert asked.line("rack1", "ready")[2:] == ["ready", "0.1.0", "3d", "4h", "580.95", "13.0"]
    assert asked.line("5090", " 0 ") == [
        "rack1",
        "0",
        "NVIDIA",
        "RTX",
        "5090",
        "9.2/32.0",
        "GiB",
        "71",
        "%",
        "64",
        "°C",
    ]
    assert asked.line("5090", " 1 ")[-4:] == ["9.0/32.0", "GiB", "-", "-"]
    assert asked.line("qwen3-8b", "torch") == [
        "qwen3-8b", "rack1", "loaded", "torch", "0,1", "18.0", "GiB", "32768", "5", "2", "3001/4096", "free"
    ]  # fmt: skip
    assert asked.line("gemma", "torch")[2:5] == ["loading", "(43%,", "weights)"]


async def test_a_pin_that_no_inventory_declares_is_shown(
    ask_them: Callable[[], Awaitable[Asked]], neuron_answers: Answers
) -> None:
    """An operator's pin keeps a model where it is, and is gone with the daemon: it must not be overlooked."""
    neuron_answers["/models"][0]["pinned"] = True
    assert "loaded (pinned by an operator)" in " ".join((await ask_them()).line("qwen3-8b", "torch"))


async def test_a_model_that_sleeps_shows_what_it_takes_of_the_host(
    ask_them: Callable[[], Awaitable[Asked]], neuron_answers: Answers
) -> None:
    """Nothing of a device, and host memory that somebody may look for."""
    neuron_answers["/models"][2] |= {"status": "sleeping", "host_memory_mb": 15872}
    shown = " ".join((await ask_them()).line("llama", "rack1"))
    assert shown.startswith("llama rack1 sleeping (15.5 GiB of the host) torch - 0.0 GiB")


async def test_a_model_that_has_died_asleep_shows_of_what(
    ask_them: Callable[[], Awaitable[Asked]], neuron_answers: Answers
) -> None:
    """Nobody waits for it, so that it is unloaded, and no finding; who looks for it finds why it is gone."""
    failure = {"kind": "rank_died", "message": "it died asleep: rank 0 was killed by signal 9 (SIGKILL)", "rank": 0}
    neuron_answers["/models"][2] |= {"status": "unloaded", "failure": failure}
    assert " ".join((await ask_them()).line("llama", "rack1")).startswith("llama rack1 unloaded: rank_died torch")


async def test_a_declared_model_that_is_nowhere_has_a_row(ask_them: Callable[[], Awaitable[Asked]]) -> None:
    """The catalogue is shown whole, not only what is loaded."""
    assert (await ask_them()).line("llama") == ["llama", "-", "not", "loaded"]


async def test_a_dead_host_is_a_row_that_says_why(ask_them: Callable[[], Awaitable[Asked]]) -> None:
    """Neither a crash nor a gap."""
    asked = await ask_them()
    assert "refused: Connection refused" in " ".join(asked.line("rack2", "http://127.0.0.1:1 "))
    assert "host_unreachable  rack2: neuron http://127.0.0.1:1/health: refused" in asked.shown()


async def test_a_neuron_that_is_loading_says_how_far(
    ask_them: Callable[[], Awaitable[Asked]], neuron_answers: Answers
) -> None:
    """Activation is shown while it lasts."""
    neuron_answers["/health"]["state"] = "activating"
    neuron_answers["/health"]["activation"]["wanted"].append("gemma")
    assert "activating (1 of 2 models)" in " ".join((await ask_them()).line("rack1", "activating"))


@pytest.mark.parametrize("path", ["/health", "/models", "/discovery", "/version"])
async def test_a_missing_endpoint_leaves_the_rest_shown(
    ask_them: Callable[[], Awaitable[Asked]], neuron_answers: Answers, path: str
) -> None:
    """Whichever answer is missing, the host's other facts are there, and a finding names the endpoint."""
    del neuron_answers[path]
    shown = (await ask_them()).shown()
    assert f"{path}: bad answer: HTTP status 404" in shown
    assert "0.1.0" in shown


@pytest.mark.parametrize("width", [20, 40, 79, 80, 120, 200])
async def test_no_line_is_wider_than_the_terminal(ask_them: Callable[[], Awaitable[Asked]], width: int) -> None:
    """A line that is too wide would destroy the table; values are folded, none is cut short."""
    shown = (await ask_them()).shown(width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown


async def test_nothing_but_text_is_written_without_a_terminal(ask_them: Callable[[], Awaitable[Asked]]) -> None:
    """A log or a pipe gets no escape sequences; a terminal gets colours."""
    asked = await ask_them()
    assert "\x1b" not in asked.shown()
    assert "\x1b[32mloaded" in asked.shown(force_terminal=True, color_system="standard")
    assert "\x1b[3" not in asked.shown(force_terminal=True, color_system="standard", no_color=True)


async def test_what_a_host_says_is_never_markup_nor_a_control_sequence(
    ask_them: Callable[[], Awaitable[Asked]], neuron_answers: Answers
) -> None:
    """A host that is broken or hostile cannot clear the operator's terminal or forge a line."""
    neuron_answers["/discovery"]["devices"][0]["name"] = "[bold]GPU[/bold] :smile:"
    neuron_answers["/discovery"]["driver_problem"] = "\x1b[2J\x07first\nsecond\r\u202e\u2028third"
    shown = (await ask_them()).shown()
    assert "[bold]GPU[/bold] :smile:" in shown
    assert "[2J first second third" in shown
    assert not {"\x1b", "\x07", "\r", "\u202e", "\u2028"} & set(shown)


def test_an_inventory_that_cannot_be_used_shows_its_problems() -> None:
    """All of them, one a line."""
    asked = Asked(Fleet(gateways=(), neurons=(), models=()), unusable(["one", "two"], datetime.now(UTC)))
    assert asked.shown().splitlines() == ["one", "two"]
