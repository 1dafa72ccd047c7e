"""What a gateway process counts, read from its /metrics as Prometheus does (cases M1, M2)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from gateway_process import RunningGateway, model_entry, running, until, until_async, write_config
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from scripted_neuron import USAGE, WORDS, Fault, ScriptedNeuron, scripted

MODEL, COLD, DOOMED = "org/model", "cold", "doomed"
OPENMETRICS = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
LOADS_FOR_EVER_S = 600.0


@dataclass
class Pair:
    """A gateway and its one neuron."""

    neuron: ScriptedNeuron
    gateway: RunningGateway
    before: dict[str, float]

    async def grown(self, series: str) -> float:
        """How much a series has grown since the test began."""
        return (await self.gateway.metrics()).get(series, 0.0) - self.before.get(series, 0.0)

    async def grows_to(self, series: str, by: float) -> None:
        """Wait until it has grown by so much."""

        async def has_grown() -> bool:
            return await self.grown(series) == by

        await until_async(has_grown)

    async def streamed(self, model: str = MODEL) -> None:
        """One streamed answer, to its end and its log line."""
        async with self.gateway.ask(model, stream=True) as response:
            await response.read()
        await self.gateway.line_of(response.headers["x-request-id"])


@pytest_asyncio.fixture(scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[ScriptedNeuron, RunningGateway]]:
    entries = [model_entry(MODEL), model_entry(COLD), model_entry(DOOMED)]
    async with (
        scripted("one", MODEL) as neuron,
        running(tmp_path_factory.mktemp("gateway"), [neuron], entries, idle_timeout_s=0.5) as gateway,
    ):
        yield neuron, gateway


@pytest_asyncio.fixture
async def pair(both: tuple[ScriptedNeuron, RunningGateway]) -> Pair:
    neuron, gateway = both
    neuron.fault, neuron.pace_s, neuron.load_s, neuron.load_fails = Fault.NONE, 0.05, 0.0, False
    neuron.models.pop(COLD, None)
    before: dict[str, float] = {}

    async def is_cold() -> bool:
        before.clear()
        before.update(await gateway.metrics())
        return not any(series.startswith(f'cortex_model_status{{model="{COLD}"') for series in before)

    await until_async(is_cold)
    return Pair(neuron, gateway, before)


async def test_ttft_is_of_the_first_content_and_the_duration_ends_with_the_stream(pair: Pair) -> None:
    """The role frame comes at once and is not it; the head of the answer is not its end (M1)."""
    pair.neuron.fault, pair.neuron.pace_s = Fault.SLOW, 0.3
    await pair.streamed()
    labels = f'dialect="openai",model="{MODEL}"'
    assert await pair.grown(f'cortex_ttft_seconds_bucket{{dialect="openai",le="0.25",model="{MODEL}"}}') == 0
    assert await pair.grown(f'cortex_ttft_seconds_bucket{{dialect="openai",le="1.0",model="{MODEL}"}}') == 1
    assert await pair.grown(f"cortex_request_duration_seconds_sum{{{labels}}}") > 0.3 * len(WORDS)


async def test_a_whole_answer_has_a_duration_and_no_ttft(pair: Pair) -> None:
    """Its first word comes with its last: as a TTFT that would be a duration among others' first words (M1)."""
    async with pair.gateway.ask(MODEL) as response:
        await response.read()
    labels = f'dialect="openai",model="{MODEL}"'
    await pair.grows_to(f"cortex_request_duration_seconds_count{{{labels}}}", 1)
    assert await pair.grown(f"cortex_ttft_seconds_count{{{labels}}}") == 0


async def test_tokens_per_second_are_those_of_decode(pair: Pair) -> None:
    """All but the first token, which is prefill's, by the time of decode alone (M1)."""
    await pair.streamed()
    assert USAGE["prefill_ms"]
    assert await pair.grown(f'cortex_tokens_per_second_sum{{model="{MODEL}"}}') == pytest.approx(4 / 0.1)


@pytest.mark.parametrize(("model", "status"), [(COLD, 200), (DOOMED, 503)])
async def test_what_a_request_waits_for_its_load_is_measured_however_that_ends(
    pair: Pair, model: str, status: int
) -> None:
    """A failed load was waited for as well; a request whose model is there waits for nothing."""
    pair.neuron.load_s, pair.neuron.load_fails = 0.6, model == DOOMED
    async with pair.gateway.ask(model) as response:
        assert response.status == status
    await pair.streamed()
    assert await pair.grown(f'cortex_load_wait_seconds_count{{model="{model}"}}') == 1
    assert await pair.grown(f'cortex_load_wait_seconds_bucket{{le="0.5",model="{model}"}}') == 0
    assert await pair.grown(f'cortex_load_wait_seconds_count{{model="{MODEL}"}}') == 0


@pytest.mark.parametrize(("status", "outcome"), [(400, "client_error"), (422, "client_error"), (500, "server_error")])
async def test_a_neurons_errors_are_counted_by_their_status(pair: Pair, status: int, outcome: str) -> None:
    """4xx and 5xx, each for itself (M2)."""
    pair.neuron.fault, pair.neuron.refusal_status = Fault.REFUSAL, status
    async with pair.gateway.ask(MODEL) as response:
        assert response.status == status
    await pair.grows_to(f'cortex_upstream_errors_total{{neuron="one",reason="http_{status}"}}', 1)
    assert await pair.grown(f'cortex_requests_total{{dialect="openai",model="{MODEL}",outcome="{outcome}"}}') == 1


@pytest.mark.parametrize(("fault", "stream"), [(Fault.BREAK, True), (Fault.BREAK, False), (Fault.STALL, True)])
async def test_an_answer_that_breaks_is_counted_against_its_neuron(pair: Pair, fault: Fault, stream: bool) -> None:
    """As a broken stream, by reason, where it was one; a whole answer is none, but it broke all the same (M2)."""
    pair.neuron.fault = fault
    async with pair.gateway.ask(MODEL, stream=stream) as response:
        await response.read()
    reason = "upstream_timeout" if fault is Fault.STALL else "upstream_broken"
    await pair.grows_to('cortex_upstream_errors_total{neuron="one",reason="broken"}', 1)
    assert await pair.grown(f'cortex_broken_streams_total{{model="{MODEL}",reason="{reason}"}}') == int(stream)


@pytest.mark.parametrize(
    ("model", "fault", "stage"),
    [(COLD, Fault.NONE, "waiting"), (MODEL, Fault.HANG, "asked"), (MODEL, Fault.SLOW, "answering")],
)
async def test_clients_that_leave_are_counted_by_how_far_they_had_come(
    pair: Pair, model: str, fault: Fault, stage: str
) -> None:
    """Whether they gave up on a load, on the first word, or on the answer; until then they are in flight there (M2)."""
    pair.neuron.fault, pair.neuron.load_s, pair.neuron.pace_s = fault, LOADS_FOR_EVER_S, 0.4
    asking = asyncio.create_task(_first_bytes(pair.gateway, model))
    await pair.grows_to(f'cortex_requests_in_flight{{stage="{stage}"}}', 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await pair.grows_to(f'cortex_client_disconnects_total{{model="{model}",stage="{stage}"}}', 1)
    await pair.grows_to(f'cortex_requests_in_flight{{stage="{stage}"}}', 0)
    outcome = f'cortex_requests_total{{dialect="openai",model="{model}",outcome="client_gone"}}'
    assert await pair.grown(outcome) == 1


async def _first_bytes(gateway: RunningGateway, model: str) -> None:
    async with aiohttp.ClientSession() as alone, alone.post(
        f"{gateway.url}/v1/chat/completions",
        json={"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": True},
    ) as response:  # fmt: skip
        async for _ in response.content:
            continue


async def test_exemplars_lead_to_requests_for_those_who_ask_for_openmetrics(pair: Pair) -> None:
    """On the counter and both times of a request; the plain format, which has none, is for everybody else."""
    async with pair.gateway.http.post(
        f"{pair.gateway.url}/v1/chat/completions",
        json={"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True},
        headers={"x-request-id": "look-me-up"},
    ) as response:
        await response.read()
    await pair.gateway.line_of("look-me-up")
    async with pair.gateway.http.get(f"{pair.gateway.metrics_url}/metrics", headers=OPENMETRICS) as response:
        assert response.content_type == "application/openmetrics-text"
        families = list(text_string_to_metric_families(await response.text()))
    named = {
        sample.name
        for family in families
        for sample in family.samples
        if sample.exemplar and sample.exemplar.labels["request_id"] == "look-me-up"
    }
    assert named == {"cortex_requests_total", "cortex_ttft_seconds_bucket", "cortex_request_duration_seconds_bucket"}
    async with pair.gateway.http.get(f"{pair.gateway.metrics_url}/metrics") as response:
        assert response.content_type == "text/plain"
        assert "look-me-up" not in await response.text()


async def test_a_request_id_too_long_for_an_exemplar_is_counted_without_one(pair: Pair) -> None:
    """OpenMetrics allows 128 characters, names included, and prometheus_client raises beyond that."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    long = "x" * 128
    async with pair.gateway.http.post(
        f"{pair.gateway.url}/v1/chat/completions", json=body, headers={"x-request-id": long}
    ) as response:
        assert response.status == 200
    assert (await pair.gateway.line_of(long))["outcome"] == "ok"
    assert await pair.grown(f'cortex_requests_total{{dialect="openai",model="{MODEL}",outcome="ok"}}') == 1


async def test_a_request_that_outlives_its_model_and_neuron_brings_no_series_back(tmp_path: Path) -> None:
    """They are gone from the configuration while it runs; it is counted when it ends, after that (M2)."""
    async with (
        scripted("aa", MODEL) as leaving,
        scripted("bb", "stays") as staying,
        running(tmp_path, [leaving, staying], [model_entry(MODEL), model_entry("stays")]) as gateway,
    ):
        leaving.fault, leaving.pace_s = Fault.SLOW, 0.3
        streaming = asyncio.create_task(gateway.text(MODEL))
        await until(lambda: len(leaving.sent) == 1)
        ports = tuple(int(url.rpartition(":")[2]) for url in (gateway.url, gateway.metrics_url))
        write_config(tmp_path, [staying], [model_entry("stays")], (ports[0], ports[1]))
        gateway.process.send_signal(signal.SIGHUP)
        await gateway.logged("reloaded")
        assert "[DONE]" in await streaming
        await gateway.logged("request")
        shown = await gateway.metrics()
        assert [series for series in shown if f'"{MODEL}"' in series or '"aa"' in series] == []
        assert 'cortex_neuron_up{neuron="bb"}' in shown


async def test_an_open_circuit_is_shown_until_it_closes(pair: Pair) -> None:
    """A model whose answers keep failing on a neuron that is up; no series once it is served again."""
    series = f'cortex_circuit_open{{model="{MODEL}",neuron="one"}}'
    pair.neuron.fault, pair.neuron.refusal_status = Fault.REFUSAL, 500

    async def is_open() -> bool:
        async with pair.gateway.ask(MODEL) as response:
            await response.read()
        return series in await pair.gateway.metrics()

    await until_async(is_open)
    pair.neuron.fault = Fault.NONE

    async def is_closed() -> bool:
        return not await is_open()

    await until_async(is_closed)
