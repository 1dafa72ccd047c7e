"""Traces from the client through the gateway and the neuron into the engine, as a collector gets them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from free_ports import free_port
from gateway_process import CHAT, RunningGateway, model_entry, running, until
from neuron_process import RunningNeuron, chat_body, running_neuron
from otlp_receiver import Receiver, Sent, receiving
from scripted_neuron import Fault, scripted
from scripted_neuron import ScriptedNeuron as Stub

CALLER_TRACE, CALLER_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
EVERY_MS = "100"
ENGINE_SPANS = ["queue", "prefill", "decode"]


@dataclass
class Fleet:
    """A gateway, a neuron of the real daemon, one that always says 503 and is asked first, and a collector."""

    gateway: RunningGateway
    neuron: RunningNeuron
    refusing: Stub
    receiver: Receiver

    async def ask(self, order: dict[str, object], model: str = "echo", **more: object) -> tuple[str, list[Sent]]:
        """A request within CALLER_TRACE, or without one; its request id and its trace's spans once all are there."""
        headers = dict(more.pop("headers", {}))  # type: ignore[call-overload]
        async with self.gateway.http.post(
            self.gateway.url + CHAT, json=chat_body(order, model, **more), headers=headers
        ) as response:
            assert response.status == 200, await response.text()
            await response.read()
        request_id = response.headers["x-request-id"]
        trace_id = (await self.gateway.line_of(request_id))["trace_id"]
        # A service's span of the whole request ends after those within it, and is sent after them.
        await until(lambda: sum(span.name == f"POST {CHAT}" for span in self.receiver.of(trace_id)) == 2)
        return request_id, self.receiver.of(trace_id)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fleet(echo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    entries = [{"id": name, "source": str(echo_model)} for name in ("echo", "cold")]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", EVERY_MS)
        async with (
            receiving() as receiver,
            running_neuron([{**entries[0], "preload_on": ["bb"]}, entries[1]], name="bb", otlp_endpoint=receiver.url)
            as neuron,
            scripted("aa", "echo") as refusing,
        ):  # fmt: skip
            refusing.fault = Fault.REFUSAL
            await neuron.until_status("loaded")
            folder = tmp_path_factory.mktemp("gateway")
            models = [model_entry("echo", vram_mb=10), model_entry("cold", vram_mb=10, pinned_on=["bb"])]
            async with running(folder, [refusing, neuron], models, otlp_endpoint=receiver.url) as gateway:
                yield Fleet(gateway, neuron, refusing, receiver)


def only(spans: list[Sent], name: str) -> Sent:
    """The one span of that name."""
    (found,) = [span for span in spans if span.name == name]
    return found


@pytest.mark.parametrize("stream", [True, False])
async def test_one_trace_goes_from_the_caller_over_a_failover_to_the_engine(fleet: Fleet, stream: bool) -> None:
    """Each span is within what caused it: the caller's, the gateway's, an attempt's, the neuron's, its engine's."""
    caller = {"traceparent": f"00-{CALLER_TRACE}-{CALLER_SPAN}-01", "tracestate": "vendor=1"}
    fleet.receiver.spans.clear()
    request_id, spans = await fleet.ask({"reply": "hello", "prefill_s": 0.1}, stream=stream, headers=caller)
    assert {span.trace_id for span in spans} == {CALLER_TRACE}
    names = [span.name for span in spans]
    assert sorted(names) == sorted([f"POST {CHAT}", "ask aa", "ask bb", f"POST {CHAT}", *ENGINE_SPANS])
    (of_gateway,) = [span for span in spans if span.parent_id == CALLER_SPAN]
    refused, answered = only(spans, "ask aa"), only(spans, "ask bb")
    assert (refused.parent_id, answered.parent_id) == (of_gateway.span_id, of_gateway.span_id)
    assert (refused.failed, refused.attributes["error.type"]) == (True, "http_503")
    assert not answered.failed
    (of_neuron,) = [span for span in spans if span.parent_id == answered.span_id]
    assert {only(spans, name).parent_id for name in ENGINE_SPANS} == {of_neuron.span_id}
    assert (of_gateway.service, of_neuron.service) == ("cortex-gateway", "cortex-neuron")
    assert of_gateway.attributes["cortex.request_id"] == of_neuron.attributes["cortex.request_id"] == request_id
    assert fleet.refusing.sent[-1].headers["tracestate"] == "vendor=1"


async def test_spans_say_what_was_asked_and_what_it_came_to(fleet: Fleet) -> None:
    """By the GenAI conventions' names, at both services alike."""
    _, spans = await fleet.ask({"reply": "hello"}, stream=True)
    for span in [span for span in spans if span.name == f"POST {CHAT}"]:
        assert span.attributes["gen_ai.request.model"] == "echo"
        assert span.attributes["gen_ai.usage.output_tokens"] == len("hello") + 1
        assert span.attributes["gen_ai.usage.input_tokens"] > len("hello")
        assert span.attributes["http.response.status_code"] == 200
    (of_gateway,) = [span for span in spans if span.service == "cortex-gateway" and span.name == f"POST {CHAT}"]
    assert of_gateway.attributes["gen_ai.operation.name"] == "chat"
    assert of_gateway.attributes["gen_ai.response.time_to_first_chunk"] > 0


async def test_the_engines_spans_are_as_long_as_it_has_counted(fleet: Fleet) -> None:
    """One after the other, within the neuron's, though they are made at its end."""
    request_id, spans = await fleet.ask({"reply": "hello", "step_s": 0.05, "prefill_s": 0.2})
    line = await fleet.neuron.line_of(request_id)
    queue, prefill, decode = (only(spans, name) for name in ENGINE_SPANS)
    for span, key in ((queue, "queue_ms"), (prefill, "prefill_ms"), (decode, "decode_ms")):
        assert (span.ended - span.began) * 1000 == pytest.approx(line[key], abs=0.2)
    assert queue.ended == pytest.approx(prefill.began, abs=1e-5)
    assert prefill.ended == pytest.approx(decode.began, abs=1e-5)
    (of_neuron,) = [span for span in spans if span.service == "cortex-neuron" and span.name == f"POST {CHAT}"]
    assert of_neuron.began <= queue.began
    assert abs(time.time() - of_neuron.ended) < 60


async def test_the_wait_for_a_load_is_a_span_and_the_trace_id_is_in_both_logs(fleet: Fleet) -> None:
    """A request that nobody traces begins a trace of its own."""
    request_id, spans = await fleet.ask({"reply": "hello"}, model="cold")
    load = only(spans, "load cold")
    (of_gateway,) = [span for span in spans if not span.parent_id]
    assert load.parent_id == of_gateway.span_id
    assert load.attributes["cortex.neuron"] == "bb"
    assert of_gateway.began <= load.began < load.ended <= only(spans, "ask bb").began
    assert (await fleet.neuron.line_of(request_id))["trace_id"] == of_gateway.trace_id


async def test_exemplars_carry_the_trace(fleet: Fleet) -> None:
    """So that a dashboard leads from a bucket to the trace of a request in it."""
    _, spans = await fleet.ask({"reply": "ok"})
    headers = {"accept": "application/openmetrics-text"}
    async with fleet.gateway.http.get(f"{fleet.gateway.metrics_url}/metrics", headers=headers) as response:
        assert f'trace_id="{spans[0].trace_id}"' in await response.text()


async def test_what_the_caller_does_not_sample_is_not_sent(fleet: Fleet) -> None:
    """Its choice goes on to the neuron with the trace."""
    trace_id = "a" * 32
    headers = {"traceparent": f"00-{trace_id}-{CALLER_SPAN}-00"}
    async with fleet.gateway.http.post(
        fleet.gateway.url + CHAT, json=chat_body({"reply": "ok"}), headers=headers
    ) as response:
        assert response.status == 200
    assert (await fleet.gateway.line_of(response.headers["x-request-id"]))["trace_id"] == trace_id
    assert (await fleet.neuron.line_of(response.headers["x-request-id"]))["trace_id"] == trace_id
    await fleet.ask({"reply": "ok"})  # sent after it would have been
    assert fleet.receiver.of(trace_id) == []


async def test_a_collector_that_is_down_harms_no_request_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is said to the client, once a minute to the operator, and shutdown does not wait for it."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    down = f"http://127.0.0.1:{free_port()}"
    async with scripted("one", "m") as neuron, running(tmp_path, [neuron], [model_entry("m")], otlp_endpoint=down) as g:
        for _ in range(20):
            async with g.ask("m") as response:
                assert response.status == 200
        line = await g.logged("traces_not_sent")
        assert line["otlp_endpoint"] == down
        g.process.terminate()
        stopping = time.monotonic()
        await g.process.wait()
        assert time.monotonic() - stopping < 8
    assert sum(each["event"] == "traces_not_sent" for each in g.log) == 1


async def test_what_is_not_yet_sent_at_shutdown_is_sent_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last batch waits for no interval."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    async with receiving() as receiver, scripted("one", "m") as neuron:
        async with running(tmp_path, [neuron], [model_entry("m")], otlp_endpoint=receiver.url) as gateway:
            async with gateway.ask("m") as response:
                assert response.status == 200
            assert receiver.spans == []
        assert sorted(span.name for span in receiver.spans) == [f"POST {CHAT}", "ask one"]


async def test_without_an_endpoint_nothing_of_opentelemetry_is_imported(tmp_path: Path) -> None:
    """And a caller's trace goes on to the neuron, which may know an endpoint."""
    async with scripted("one", "m") as neuron, running(tmp_path, [neuron], [model_entry("m")]) as gateway:
        caller = f"00-{CALLER_TRACE}-{CALLER_SPAN}-01"
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        async with gateway.http.post(gateway.url + CHAT, json=body, headers={"traceparent": caller}) as response:
            assert response.status == 200
        assert "trace_id" not in await gateway.line_of(response.headers["x-request-id"])
        assert neuron.sent[0].headers["traceparent"] == caller
    program = (
        "import sys, cortex_gateway.cli, cortex_neuron.daemon; print([m for m in sys.modules if 'opentelem' in m])"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)  # noqa: ASYNC221
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("service", ["gateway", "neuron"])
def test_an_endpoint_without_the_extra_is_an_error_at_start(tmp_path: Path, service: str) -> None:
    """It names file, key and value, and says what to install."""
    endpoint = {"otlp_endpoint": "http://127.0.0.1:4318"}
    section = {"name": "here", **endpoint} if service == "neuron" else endpoint
    file = tmp_path / "service.toml"
    file.write_text(f"[{service}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in section.items()))
    (tmp_path / "models.toml").write_text("")
    program = (
        "import sys; from importlib.abc import MetaPathFinder\n"
        "class Without(MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.startswith('opentelemetry'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Without())\n"
        f"from cortex_{service}.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["--config", str(file), "--models", str(tmp_path / "models.toml")]
    ended = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert f"{file}: {service}.otlp_endpoint: it is 'http://127.0.0.1:4318'" in ended.stderr
    assert "pip install 'cortex[otel]'" in ended.stderr
