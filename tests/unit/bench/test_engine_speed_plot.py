"""The figure of `make bench-engine ARGS='--plot FILE'`."""

from __future__ import annotations

from typing import Any, cast
from xml.etree import ElementTree

import pytest
from tests.bench import load
from tests.bench.engine_speed.figures import Measured, figures
from tests.bench.engine_speed.loads import Loads
from tests.bench.engine_speed.plot import svg
from tests.bench.engine_speed.prompts import Prompts

SVG = "{http://www.w3.org/2000/svg}"


def _known(**servers: dict[str, list[float]]) -> dict[str, dict[str, object]]:
    measured = {name: Measured(f"<{name}>", "1.0", seen) for name, seen in servers.items()}
    return {name: figures(each, limit_tok_s=60.0) for name, each in measured.items()}


class _Words:
    """In the place of engine_speed.prompts: a word a token, and no tokenizer."""

    def text(self, num_tokens: int) -> str:
        return " ".join(["word"] * num_tokens)


async def test_what_is_swept_is_as_long_and_as_many_as_the_axes_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each load by its name; a quick run is named by the lengths that it has."""
    asked: list[tuple[int, int, int]] = []

    async def answer(_port: int, bodies: list[dict[str, Any]], clients: int, _path: str) -> load.Measured:
        prompt, written = len(bodies[0]["prompt"].split()), bodies[0]["max_tokens"]
        asked.append((clients, prompt, written))
        usage = [{"prompt": prompt, "completion": written}] * clients
        return load.Measured(wall_s=2.0, first_s=[1.0], gaps_s=[1.0], tokens=[written] * clients, usage=usage)

    monkeypatch.setattr(load, "run", answer)
    loads = Loads(0, "m", {}, cast("Prompts", _Words()))
    seen = [await run() for run in loads.swept().values()]
    assert asked[:6] == [(number, 128, 64) for number in (1, 2, 4, 8, 16, 32)]
    assert asked[6:] == [(1, length - 64, 64) for length in (128, 512, 1024, 2048, 4096)]
    assert [seen[5]["c32_tok_s"], seen[10]["context_4096_tok_s"]] == [32 * 64 / 2, 63]
    assert not loads.off
    quick = Loads(0, "m", {}, cast("Prompts", _Words()), scale=1 / 8)
    assert await quick.swept()["context_4096"]() == {"context_512_tok_s": 7}


def _points(drawn: ElementTree.Element) -> list[list[tuple[float, float]]]:
    texts = [line.attrib["points"].split() for line in drawn.iter(f"{SVG}polyline")]
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in points)] for points in texts]


def test_each_server_has_a_line_of_medians_in_each_panel() -> None:
    """Twice as many is one step to the right, whatever the order they were measured in; more tokens are higher up."""
    crowd = {"c4_tok_s": [30.0, 90.0, 40.0], "c1_tok_s": [10.0], "c2_tok_s": [20.0]}
    ours = {**crowd, "context_128_tok_s": [15.0], "context_4096_tok_s": [10.0], "rss_mb": [5.0]}
    drawn = ElementTree.fromstring(svg(_known(cortex=ours, peer={"c1_tok_s": [5.0]})))
    (one, two, four), (lone,), (short, long), nothing = _points(drawn)
    assert two[0] - one[0] == four[0] - two[0] > 0
    assert one[1] - two[1] == pytest.approx((two[1] - four[1]) / 2, abs=0.2)  # 10, 20, and 40 as the median
    assert (lone[0], lone[1] > one[1]) == (one[0], True)
    assert short[0] < long[0]
    assert short[1] < long[1]
    assert nothing == []


def test_the_figure_names_the_servers_and_what_is_on_the_axes() -> None:
    """Also where a name has what an SVG would take for its own."""
    drawn = ElementTree.fromstring(svg(_known(cortex={"c1_tok_s": [90.0], "c32_tok_s": [210.0]})))
    words = [text.text for text in drawn.iter(f"{SVG}text")]
    assert {"<cortex> 1.0", "requests at once", "tokens of context", "1", "32", "0", "250"} <= set(words)
