"""A `vllm serve` that does as it is told: the arguments, routes and streams of vLLM 0.32, with every fault.

A model folder may hold script.json: {"start": "die" | "never" | "out_of_memory", "start_s": seconds, "stray": true,
    "completion": text}
A chat's last message may be an order:
    {"reply": text, "step_s": s, "prefill_s": s, "die_after": n, "hang_after": n, "fail_after": n, "cut_after": n,
     "wait_after": n, "refuse": true, "call": arguments of the first tool, "think": text}
A token is a character. What it was started with is written to started.json beside the script.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

FLAGS = ("--disable-uvicorn-access-log", "--enable-prompt-tokens-details", "--enable-auto-tool-choice")
VALUES = (
    "--uds", "--gpu-memory-utilization", "--max-num-seqs", "--max-num-batched-tokens", "--max-model-len", "--dtype",
    "--quantization", "--tensor-parallel-size", "--pipeline-parallel-size", "--distributed-executor-backend",
    "--override-generation-config", "--tool-call-parser", "--speculative-config",
)  # fmt: skip
BLOCKS = 236


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm")
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--served-model-name", nargs="+")
    for name in FLAGS:
        parser.add_argument(name, action="store_true")
    for name in VALUES:
        parser.add_argument(name)
    return parser.parse_args()


class Server:
    def __init__(self, options: argparse.Namespace, script: dict[str, Any]) -> None:
        self.options, self.script = options, script
        self.running = self.steps = self.cancelled = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self.health)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.completions)
        return app

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def models(self, _: web.Request) -> web.Response:
        context = int(self.options.max_model_len or 2048)
        return web.json_response(
            {"data": [{"id": name, "max_model_len": context} for name in self.options.served_model_name]}
        )

    async def metrics(self, _: web.Request) -> web.Response:
        of = f'{{engine="0",model_name="{self.options.served_model_name[0]}"}}'
        seats = int(self.options.max_num_seqs)
        lines = [
            "# HELP vllm:num_requests_running x",
            f"vllm:num_requests_running{of} {min(self.running, seats)}.0",
            f"vllm:num_requests_waiting{of} {max(0, self.running - seats)}.0",
            'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 99.0',
            f"vllm:kv_cache_usage_perc{of} {self.running / BLOCKS}",
            f'vllm:cache_config_info{{block_size="128",engine="0",num_gpu_blocks="{BLOCKS}"}} 1.0',
            f"vllm:iteration_tokens_total_count{of} {self.steps}.0",
        ]
        return web.Response(text="\n".join(lines) + "\n")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body["model"] not in self.options.served_model_name:
            return _error(404, f"The model `{body['model']}` does not exist.", "NotFoundError")
        order = json.loads(body["messages"][-1]["content"])
        if order.get("refuse"):
            return _error(400, "max_tokens=99999 cannot be greater than max_model_len=2048.", "BadRequestError")
        self.running += 1
        try:
            return await self.answer(request, body, order)
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled += 1
            print(f"aborted {self.cancelled}", flush=True)
            raise
        finally:
            self.running -= 1

    async def completions(self, request: web.Request) -> web.Response:
        """Answers with script.json's "completion"."""
        body = await request.json()
        if body["model"] not in self.options.served_model_name:
            return _error(404, f"The model `{body['model']}` does not exist.", "NotFoundError")
        text = self.script.get("completion", "ok")[: body["max_tokens"]]
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(text)}
        choices = [{"index": 0, "text": text, "finish_reason": "length"}]
        return web.json_response({"id": "c", "model": body["model"], "choices": choices, "usage": usage})

    async def answer(self, request: web.Request, body: dict[str, Any], order: dict[str, Any]) -> web.StreamResponse:
        reply, usage = order.get("reply", "ok"), {"prompt_tokens": 11, "total_tokens": 0, "completion_tokens": 0}
        usage["completion_tokens"] = len(reply)
        usage["prompt_tokens_details"] = {"cached_tokens": 3}
        deltas, reason = _deltas(reply, body, order)
        if not body.get("stream"):
            for position in range(len(reply)):
                await self.step(order, position, None)
            choice = {"index": 0, "message": _message(deltas), "finish_reason": reason}
            return web.json_response({"id": "c", "model": body["model"], "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        await asyncio.sleep(order.get("prefill_s", 0.0))
        await response.write(_event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}))
        for position, delta in enumerate(deltas):
            if await self.step(order, position, response):
                return response
            await response.write(_event({"choices": [{"index": 0, "delta": delta}]}))
        await response.write(_event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}))
        if (body.get("stream_options") or {}).get("include_usage"):
            await response.write(_event({"choices": [], "usage": usage}))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def step(self, order: dict[str, Any], position: int, response: web.StreamResponse | None) -> bool:
        """One token's time, and its fault; True where the stream is over."""
        if order.get("die_after") == position:
            os.kill(os.getpid(), signal.SIGKILL)
        if order.get("hang_after") == position:
            time.sleep(3600)  # noqa: ASYNC251  so that it answers nothing at all
        if order.get("wait_after") == position:
            await asyncio.sleep(3600)
        if response is not None and order.get("fail_after") == position:
            error = {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}
            await response.write(_event({"error": error}) + b"data: [DONE]\n\n")
            return True
        if response is not None and order.get("cut_after") == position:
            await response.write(b'data: {"choices": [{"index": 0, "del')
            return True
        await asyncio.sleep(order.get("step_s", 0.002))
        self.steps += 1
        return False


def _deltas(reply: str, body: dict[str, Any], order: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """What a stream says, piece by piece, and why it ends."""
    thoughts: list[dict[str, Any]] = [{"reasoning": each} for each in order.get("think", "")]
    if "call" not in order:
        return [*thoughts, *({"content": each} for each in reply)], "stop"
    name, arguments = body["tools"][0]["function"]["name"], json.dumps(order["call"])
    start = {"index": 0, "id": "chatcmpl-tool-1", "type": "function", "function": {"name": name, "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": each}} for each in arguments]
    return [*thoughts, *({"tool_calls": [each]} for each in (start, *pieces))], "tool_calls"


def _message(deltas: list[dict[str, Any]]) -> dict[str, Any]:
    """The same, whole."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "unknown_to_us": None}
    for name in ("content", "reasoning"):
        if text := "".join(delta.get(name, "") for delta in deltas):
            message[name] = text
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    if calls:
        arguments = "".join(call["function"]["arguments"] for call in calls)
        message["tool_calls"] = [{**calls[0], "function": {**calls[0]["function"], "arguments": arguments}}]
        del message["tool_calls"][0]["index"]
    return message


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _error(status: int, message: str, kind: str) -> web.Response:
    return web.json_response(
        {"error": {"message": message, "type": kind, "param": None, "code": status}}, status=status
    )


async def _serve(options: argparse.Namespace, script: dict[str, Any]) -> None:
    await asyncio.sleep(script.get("start_s", 0.0))
    if script.get("start") == "never":
        await asyncio.sleep(3600)
    runner = web.AppRunner(Server(options, script).app(), handler_cancellation=True)
    await runner.setup()
    await web.UnixSite(runner, options.uds).start()
    print("INFO:     Application startup complete.", flush=True)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()


def main() -> None:
    options = parsed()
    folder = Path(options.model)
    known = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "RAY_ADDRESS", "VLLM_NO_USAGE_STATS")}
    (folder / "started.json").write_text(json.dumps({"arguments": sys.argv[1:], "environment": known}))
    script = json.loads((folder / "script.json").read_text())
    print("(EngineCore pid=1) INFO 11-25 [gpu_model_runner.py:1] Starting to load model x...", flush=True)
    match script.get("start"):
        case "die":
            print("(EngineCore pid=1) ERROR 11-25 [core.py:842] ValueError: no such quantization", flush=True)
            print("RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
            sys.exit(1)
        case "out_of_memory":
            print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", flush=True)
            sys.exit(1)
    # As its engine is: a process that does not end by itself; and, where wanted, one that has left the group.
    subprocess.Popen(["sleep", "3600"])
    if script.get("stray"):
        subprocess.Popen(["sleep", "3600"], start_new_session=True)
    asyncio.run(_serve(options, script))


if __name__ == "__main__":
    main()
