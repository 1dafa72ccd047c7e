"""How a vLLM server is started and read: pure functions of cortex_neuron.vllm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cortex_contracts.inventory.files import NeuronSection
from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.errors import CortexError, InvalidJson, InvalidParameter
from cortex_contracts.wire.neuron import DeviceSpec
from cortex_neuron.residency.harness import Order
from cortex_neuron.vllm import asked, command, exposition
from cortex_neuron.vllm.answer_stream import AnswerStream
from cortex_neuron.vllm.exposition import Told
from cortex_neuron.vllm.log_lines import Allowance, Lines, cause, progress_of

ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
TEXT = {"choices": [{"index": 0, "delta": {"content": "hi"}}]}
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
DONE = b"data: [DONE]\n\n"


def order(devices: tuple[int, ...] = (0, 1), total_mb: int = 80_000, **more: Any) -> Order:
    model = Model(id="m", source="/m", harness="vllm", **{"vram_mb": 56_000, **more})
    specs = tuple(DeviceSpec(index=index, name="x", vram_total_mb=total_mb + index) for index in devices)
    return Order(model, devices, tuple(f"cuda:{index}" for index in devices), specs)


def started(of: Order, **settings: Any) -> dict[str, str]:
    """The arguments by name, each with what follows it."""
    section = NeuronSection(name="here", vllm_bin="/opt/vllm/bin/vllm", **settings)
    line = command.arguments(of, Path("/m"), Path("/run/neuron/v1.sock"), section)
    assert line[:3] == ["/opt/vllm/bin/vllm", "serve", "/m"]
    return dict(zip(line, [*line[1:], ""], strict=True))


def environment(of: Order, **settings: Any) -> dict[str, str]:
    section = NeuronSection(name="here", vllm_bin="/opt/vllm/bin/vllm", **settings)
    return command.environment(of, section, {"PATH": "/bin", "PYTHONPATH": "/ours", "HOME": "/h"})


def test_a_model_of_several_devices_has_its_share_of_each() -> None:
    """Of the smallest there is, rounded down, for vLLM refuses to start where less is free."""
    line = started(order(tensor_parallel=2))
    assert line["--tensor-parallel-size"] == "2"
    assert line["--pipeline-parallel-size"] == "1"
    assert line["--gpu-memory-utilization"] == "0.3500"
    assert "--distributed-executor-backend" not in line
    assert environment(order(devices=(1, 3)))["CUDA_VISIBLE_DEVICES"] == "1,3"


def test_a_model_of_several_hosts_is_given_to_ray() -> None:
    """Half of it is here, on this host's share of the devices, and Ray chooses which."""
    split = order(tensor_parallel=2, pipeline_parallel=2, ray_hosts=2)
    assert started(split)["--distributed-executor-backend"] == "ray"
    assert started(split)["--gpu-memory-utilization"] == "0.1750"
    known = environment(split, vllm_ray_address="10.0.0.5:6379")
    assert known["RAY_ADDRESS"] == "10.0.0.5:6379"
    assert "CUDA_VISIBLE_DEVICES" not in known


@pytest.mark.parametrize(
    ("quant", "name", "value"),
    [
        ("bf16", "--dtype", "bfloat16"),
        ("float32", "--dtype", "float32"),
        ("awq_marlin", "--quantization", "awq_marlin"),
    ],
)
def test_quant_is_a_type_of_numbers_or_vllms_to_know(quant: str, name: str, value: str) -> None:
    assert started(order(quant=quant))[name] == value


@pytest.mark.parametrize(
    ("ours", "vllms"), [("hermes", "hermes"), ("qwen_xml", "qwen3_coder"), ("mistral_args", "mistral")]
)
def test_the_catalogues_tool_parser_is_told_in_vllms_words(ours: str, vllms: str) -> None:
    """And without one vLLM is left to what engine_args say."""
    line = started(order(tool_parser=ours))
    assert "--enable-auto-tool-choice" in line
    assert line["--tool-call-parser"] == vllms
    assert "--tool-call-parser" not in started(order())


def test_drafts_are_asked_for_in_vllms_words() -> None:
    """Key by key as the catalogue has them; a model without them drafts nothing."""
    asked = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4, "prompt_lookup_min": 3}
    assert json.loads(started(order(speculative=asked))["--speculative-config"]) == asked
    draft = {"method": "draft_model", "model": "org/small", "num_speculative_tokens": 5}
    assert json.loads(started(order(speculative=draft))["--speculative-config"]) == draft
    assert "--speculative-config" not in started(order())


def test_what_its_cache_is_rounded_to_is_passed_on() -> None:
    """By the same word; without one vLLM decides."""
    assert started(order(kv_cache_dtype="fp8"))["--kv-cache-dtype"] == "fp8"
    assert "--kv-cache-dtype" not in started(order())


def test_the_servers_environment_is_its_own() -> None:
    """Its tools first, nothing of our Python, no figures sent home, and the inventory's word last."""
    known = environment(order(), environment={"DO_NOT_TRACK": "0", "HF_TOKEN": "x"})
    assert known["PATH"] == "/opt/vllm/bin:/bin"
    assert "PYTHONPATH" not in known
    assert (known["VLLM_NO_USAGE_STATS"], known["DO_NOT_TRACK"], known["HF_TOKEN"]) == ("1", "0", "x")


def test_a_log_is_cut_into_lines_and_bounded() -> None:
    """Wherever its pieces end; a progress bar is many lines, and no line is long."""
    lines = Lines()
    assert lines.feed(b"one\ntw") == ["one"]
    assert lines.feed(b"o\r 50%\r100%\r\n\n") == ["two", " 50%", "100%"]
    assert [len(line) for line in lines.feed(b"x" * 9000 + b"\n")] == [1000]
    allowance = Allowance()
    assert sum(allowance.takes(5.0 + number / 100) for number in range(50)) == 20
    assert allowance.num_left_out == 30
    assert allowance.takes(6.0)


def test_the_start_is_read_off_the_log() -> None:
    """Lines of vLLM 0.32."""
    told = [
        "(EngineCore pid=1) INFO 11-25 [gpu_model_runner.py:1] Starting to load model /m...",
        "Loading safetensors checkpoint shards:  50% Completed | 1/2",
        "(Worker pid=3228) INFO 11-25 [cpu_model_runner.py:87] Warming up model for the compilation...",
        "INFO:     Application startup complete.",
        "something else",
    ]
    phases = [(found.phase, found.fraction) if (found := progress_of(line)) else None for line in told]
    assert phases == [("weights", 0.1), ("weights", 0.35), ("warm_up", 0.6), ("serving", 0.95), None]


def test_the_cause_of_an_end_is_the_first_fault() -> None:
    """vLLM says last that something before it has failed."""
    root = "(EngineCore pid=1) ERROR [core.py:842] torch.OutOfMemoryError: CUDA out of memory. Tried"
    later = "RuntimeError: Engine core initialization failed. See root cause above."
    assert (
        cause(["INFO x", later, root, "ValueError: other", later])
        == "torch.OutOfMemoryError: CUDA out of memory. Tried"
    )
    assert cause(["INFO x", later]) == ""


def test_figures_are_read_of_every_engine() -> None:
    """Sums, and nothing of series whose name only begins alike."""
    page = "\n".join(
        [
            "# TYPE vllm:num_requests_running gauge",
            'vllm:num_requests_running{engine="0",model_name="m"} 3.0',
            'vllm:num_requests_running{engine="1",model_name="m"} 2.0',
            'vllm:num_requests_waiting{engine="0",model_name="m"} 1.0',
            'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 1.0',
            'vllm:kv_cache_usage_perc{engine="0"} 0.5',
            'vllm:cache_config_info{engine="0",num_gpu_blocks="236",x="None"} 1.0',
            'vllm:iteration_tokens_total_count{engine="0"} 1.5e3',
            'vllm:spec_decode_num_draft_tokens_total{engine="0"} 40.0',
            'vllm:spec_decode_num_accepted_tokens_total{engine="0"} 30.0',
            'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="0"} 20.0',
        ]
    )
    assert exposition.read(page) == Told(5, 1, 236, 0.5, steps=1500, drafted=40, accepted=30)
    assert exposition.read("nothing of that") == Told()


def sent(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def passed(stream: AnswerStream, data: bytes, size: int) -> bytes:
    """What goes on of a stream that comes in pieces of so many bytes, and ends."""
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(stream.feed(piece) for piece in [*pieces, b""] if stream.is_open)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_whole_stream_goes_on_byte_for_byte(size: int) -> None:
    """Less the usage that only we have asked for; [DONE] is kept for last."""
    stream = AnswerStream(hides_usage=True)
    assert passed(stream, sent(ROLE, TEXT, STOP, USAGE) + DONE, size) == sent(ROLE, TEXT, STOP)
    assert (stream.closing, stream.failure, stream.finish_reason) == (DONE, None, "stop")
    assert (stream.tokens.prompt, stream.tokens.completion, stream.content_seen) == (7, 2, True)
    asking = AnswerStream(hides_usage=False)
    assert passed(asking, sent(ROLE, TEXT, STOP, USAGE) + DONE, size) == sent(ROLE, TEXT, STOP, USAGE)


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (b"", "before its [DONE]"),
        (b'data: {"choices": [{"del', "before its [DONE]"),
        (DONE, "before any answer was finished"),
        (b"data: {nonsense}\n\n" + sent(STOP) + DONE, "no event of an answer"),
        (sent({"error": {"message": "EngineCore died", "code": 500}}, STOP) + DONE, "EngineCore died"),
    ],
)
@pytest.mark.parametrize("size", [5, 10_000])
def test_a_stream_that_breaks_has_a_failure_and_no_end(rest: bytes, words: str, size: int) -> None:
    """Whole events go on until then (case S6)."""
    stream = AnswerStream(hides_usage=True)
    assert passed(stream, sent(ROLE, TEXT) + rest, size) == sent(ROLE, TEXT)
    assert isinstance(stream.failure, CortexError)
    assert words in stream.failure.message
    assert (stream.closing, stream.failure.code) == (b"", "upstream_broken")


def test_a_request_is_the_clients_own_unless_usage_must_be_asked_for() -> None:
    """Values keep their bytes, whatever they are (case W11)."""
    body = b'{"model":"m",  "n":2,"x":1.0e1}'
    assert asked.read(body) == asked.Asked("m", False, 2, body, hides_usage=False)
    streamed = asked.read(b'{"model":"m","stream":true,"x":1.0e1,"stream_options":{"y":1}}')
    assert (streamed.stream, streamed.hides_usage) == (True, True)
    assert streamed.body == b'{"model":"m","stream":true,"x":1.0e1,"stream_options":{"y":1,"include_usage":true}}'
    wanted = b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}'
    assert asked.read(wanted).body == wanted
    odd = b'{"model":"m","stream":true,"stream_options":7,"n":"two"}'
    assert asked.read(odd) == asked.Asked("m", True, 1, odd, hides_usage=False)


def test_a_request_that_cannot_be_read_is_refused() -> None:
    """By us, where we must read it; what names no model is not ours to pass on."""
    with pytest.raises(InvalidJson):
        asked.read(b'{"model":')
    with pytest.raises(InvalidParameter):
        asked.read(b'{"model":"m","stream":1}')
    assert [asked.model_of(body) for body in (b"{", b"[]", b'{"model":7}', b'{"model":"m"}')] == [None, None, None, "m"]
