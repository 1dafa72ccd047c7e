"""A rank that does as its prompts say: a real process on a real socket, with every fault an engine can have.

A model folder (see scripted_model.py) may hold script.json:
    {"load": "never" | "die" | "error" | "stale", "load_s": seconds, "kv_blocks": n, "slower": factor,
     "weights_mb": n, "sleep": "error", "sleep_s": seconds, "wake": "error",
     "unordered": what to do with a prompt that holds no order}
A prompt's last {"…"} object is its order:
    {"reply": text, "step_s": s, "prefill_s": s, "hang_after": n, "die_after": n, "fail_after": n,
     "tokens_per_step": n, "bad_request": true, "garbage": true, "strangers": true, "tell_temperature": true}
Token ids are bytes; EOS ends an answer.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import zmq

from cortex_neuron.protocol import frames

EOS = 256
BLOCK = 16
BLOCKS = 256
CONTEXT = 2048
VOCABULARY = 259


@dataclass
class Sequence:
    id: int
    order: dict
    left: list[int]
    room: int
    blocks: int
    logprobs: int | None
    given: int = 0
    ready_at: float = field(default_factory=time.monotonic)
    submitted_at: float = field(default_factory=time.monotonic)


class ScriptedRank:
    def __init__(self, address: str, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, b"rank-%d" % rank)
        self.socket.setsockopt(zmq.LINGER, 1000)
        self.socket.connect(address)
        self.sequences: dict[int, Sequence] = {}
        self.max_sequences = 0
        self.kv_blocks = BLOCKS
        self.unordered: dict = {}
        self.slower = 1.0  # times as long every step and prefill takes

    def run(self) -> None:
        self.send(frames.Pong(rank=self.rank, world_size=self.world_size, device="cpu"))
        while True:
            running = self.running()
            wait_s = 1.0 if not running else max(0.0, min(each.ready_at for each in running) - time.monotonic())
            if self.socket.poll(wait_s * 1000):
                frame = frames.decode_to_rank(self.socket.recv())
                if isinstance(frame, frames.Shutdown):
                    self.send(frames.Bye(seq=frame.seq))
                    return
                self.take(frame)
            elif running:
                self.step(running)

    def send(self, frame: frames.FromRank) -> None:
        self.socket.send(frames.encode(frame))

    def take(self, frame: frames.ToRank) -> None:
        match frame:
            case frames.Ping():
                self.send(frames.Pong(seq=frame.seq, rank=self.rank, world_size=self.world_size, device="cpu"))
            case frames.Load():
                self.load(frame)
            case frames.Submit():
                self.submit(frame)
            case frames.Sleep():
                self.sleep(frame)
            case frames.Wake():
                self.wake(frame)
            case frames.Cancel():
                for each in frame.ids:
                    self.sequences.pop(each, None)
                self.send(self.stepped([]))

    def load(self, frame: frames.Load) -> None:
        source = Path(frame.source)
        script = source / "script.json"
        orders = json.loads(script.read_text()) if script.exists() else {}
        for name in ("tokenizer.json", "special_tokens.json", "chat_template.jinja", "generation_config.json"):
            if (source / name).exists():
                shutil.copy(source / name, Path(frame.text_dir) / name)
        self.send(frames.LoadProgress(seq=frame.seq, phase=frames.TEXT_IS_THERE, fraction=0.5))
        time.sleep(orders.get("load_s", 0.0))
        match orders.get("load"):
            case "never":
                time.sleep(3600)
            case "die":
                os._exit(17)
            case "error":
                self.send(frames.Error(seq=frame.seq, kind="out_of_memory", message="no room", fatal=True))
                return
        self.max_sequences = frame.max_sequences
        self.kv_blocks, self.slower = orders.get("kv_blocks", BLOCKS), orders.get("slower", 1.0)
        self.unordered = orders.get("unordered", {})
        if orders.get("load") == "stale":  # the answers to something that was asked before
            self.send(frames.Loaded(seq=frame.seq + 1000, vram_mb=1, context=1, vocab_size=1, block_size=1, kv_blocks=1,
                                    eos_ids=[]))  # fmt: skip
            self.send(frames.Error(seq=frame.seq + 1000, kind="load_failed", message="an older load"))
        self.orders = orders
        self.loaded = frames.Loaded(
            seq=frame.seq, vram_mb=orders.get("vram_mb", 7), context=frame.context or CONTEXT,
            vocab_size=VOCABULARY, block_size=BLOCK, kv_blocks=self.kv_blocks, eos_ids=[EOS],
            weights_mb=orders.get("weights_mb", 5),
        )  # fmt: skip
        self.send(self.loaded)

    def sleep(self, frame: frames.Sleep) -> None:
        time.sleep(self.orders.get("sleep_s", 0.0))
        if self.orders.get("sleep") == "error":
            self.send(frames.Error(seq=frame.seq, kind="out_of_memory", message="no room in the host", fatal=True))
        else:
            self.send(frames.Asleep(seq=frame.seq, host_mb=self.orders.get("weights_mb", 5)))

    def wake(self, frame: frames.Wake) -> None:
        if self.orders.get("wake") == "error":
            self.send(frames.Error(seq=frame.seq, kind="out_of_memory", message="no room any more", fatal=True))
        else:
            self.send(frames.LoadProgress(seq=frame.seq, phase="weights", fraction=0.1))
            self.send(msgspec.structs.replace(self.loaded, seq=frame.seq))

    def submit(self, frame: frames.Submit) -> None:
        prompt = [int(each) for each in np.frombuffer(frame.prompt, dtype="<i4")]
        text = bytes(each for each in prompt if each < 256).decode(errors="replace")
        order = order_of(text) or self.unordered
        if order.get("tell_temperature"):
            order["reply"] = str(frame.sampling.temperature)
        if order.get("bad_request"):
            self.send(frames.Error(seq=frame.seq, kind="bad_request", message="the order was to refuse it"))
            return
        if order.get("garbage"):
            self.socket.send(b"\xc1 not msgpack")
        if order.get("strangers"):
            self.send(self.stepped([frames.Output(frame.id + 1000, [65], "stop")]))
            self.send(frames.Error(seq=frame.id + 1000, kind="engine_error", message="of a request long gone"))
        left = order["reply_ids"] if "reply_ids" in order else [*order.get("reply", "ok").encode(), EOS]
        blocks = -(-(len(prompt) + frame.max_tokens) // BLOCK)
        sequence = Sequence(frame.id, order, list(left), frame.max_tokens, blocks, frame.logprobs)
        sequence.ready_at += order.get("prefill_s", 0.0) * self.slower
        self.sequences[frame.id] = sequence

    def running(self) -> list[Sequence]:
        return list(self.sequences.values())[: self.max_sequences]

    def step(self, running: list[Sequence]) -> None:
        now = time.monotonic()
        outputs = [self.advance(each) for each in running if each.ready_at <= now]
        for output in outputs:
            if output.finish is not None:
                del self.sequences[output.id]
        self.send(self.stepped(outputs))

    def advance(self, sequence: Sequence) -> frames.Output:
        self.fault(sequence)
        if sequence.order.get("fail_after") == sequence.given:
            return frames.Output(sequence.id, [], "error", None, "non_finite_logits", "3 of 3 logits are not finite")
        count = min(sequence.order.get("tokens_per_step", 1), len(sequence.left), sequence.room - sequence.given)
        tokens, sequence.left = sequence.left[:count], sequence.left[count:]
        first, sequence.given = sequence.given == 0, sequence.given + count
        sequence.ready_at = time.monotonic() + sequence.order.get("step_s", 0.002) * self.slower
        finish = "stop" if tokens[-1:] == [EOS] else "length" if sequence.given >= sequence.room else None
        chosen = None
        if sequence.logprobs is not None:
            best = max(1, sequence.logprobs)
            chosen = [frames.TokenLogprobs(-0.5, [each] * best, [-0.5] * best) for each in tokens]
        queue_ms = (time.monotonic() - sequence.submitted_at) * 1000 if first else 0.0
        prefill_ms = 5.0 if first else 0.0
        return frames.Output(sequence.id, tokens, finish, chosen, None, None, 4 if first else 0, queue_ms, prefill_ms)

    def fault(self, sequence: Sequence) -> None:
        if sequence.order.get("hang_after") == sequence.given:
            time.sleep(3600)
        if sequence.order.get("die_after") == sequence.given:
            os.kill(os.getpid(), signal.SIGKILL)

    def stepped(self, outputs: list[frames.Output]) -> frames.Stepped:
        held = sum(each.blocks for each in self.running())
        waiting = max(0, len(self.sequences) - self.max_sequences)
        return frames.Stepped(
            outputs=outputs,
            running=len(self.running()),
            waiting=waiting,
            kv_blocks_free=self.kv_blocks - held,
            step_ms=1.0,
        )


def order_of(text: str) -> dict:
    """The last JSON object in a prompt."""
    decoder, start = json.JSONDecoder(), text.rfind('{"')
    while start >= 0:
        try:
            return decoder.raw_decode(text[start:])[0]
        except json.JSONDecodeError:
            start = text.rfind('{"', 0, start)
    return {}


def main(address: str, rank: int, world_size: int) -> None:
    if os.environ.get("SCRIPTED_RANK_BOOT") == "die":
        os._exit(19)
    if os.environ.get("SCRIPTED_RANK_BOOT") == "silent":
        time.sleep(3600)
    ScriptedRank(address, rank, world_size).run()
