"""What is asked of an engine, the same of each: greedy completions of exact lengths, every prompt a new one.

Owns: the loads, and the figures that one run of each gives. Does not own: how often (runs.py) or what becomes of the
numbers (figures.py). Called by: runs.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.bench import load
from tests.bench.engine_speed.prompts import Prompts

PATH = "/v1/completions"
_PROMPT, _ANSWER = 128, 128
_LONG_PROMPT = 1024
_CROWD_ANSWER = 64
_CONCURRENCY = (1, 2, 4, 8, 16, 32)
_CONTEXT, _CONTEXT_ANSWER = (128, 512, 1024, 2048, 4096), 64
_SHARED_HEAD, _SHARED_TAIL, _SHARED_ANSWER, _SHARERS, _MANY_SHARERS = 512, 32, 32, 8, 32


@dataclass
class Loads:
    """The loads on one server. `scale` multiplies every length; `off` tells of answers of other lengths."""

    port: int
    model: str
    more: Mapping[str, Any]  # of the body: how this server is told to go on after an end of text
    prompts: Prompts
    scale: float = 1.0
    off: set[str] = field(default_factory=set)

    def named(self) -> dict[str, Callable[[], Awaitable[dict[str, float]]]]:
        """All of them."""
        return {
            "single": self.single, "prefill": self.prefill, "c8": lambda: self.crowd(8), "c32": lambda: self.crowd(32),
            "shared_prefix": self.shared_prefix, "shared_prefix_c32": self.many_shared_prefixes,
        }  # fmt: skip

    def swept(self) -> dict[str, Callable[[], Awaitable[dict[str, float]]]]:
        """What the plot shows: ever more at once, and ever longer texts."""
        crowds = {f"c{number}": partial(self.crowd, number) for number in _CONCURRENCY}
        return crowds | {f"context_{length}": partial(self.context, length) for length in _CONTEXT}

    async def one_token(self) -> None:
        """The shortest answer."""
        await self._ask([self.prompts.text(4)], 4, 1)

    async def warm_up(self) -> None:
        """What an engine does only once, at one request and at several."""
        for num_requests in (1, 4):
            num_tokens = self._length(_PROMPT)
            await self._ask([self.prompts.text(num_tokens) for _ in range(num_requests)], num_tokens, self._length(16))

    async def single(self) -> dict[str, float]:
        """One request alone."""
        prompt, answer = self._length(_PROMPT), self._length(_ANSWER)
        seen = await self._ask([self.prompts.text(prompt)], prompt, answer)
        num_tokens = seen.usage[0].get("completion", seen.tokens[0])
        return {"ttft_s": seen.first_s[0], "decode_tok_s": (num_tokens - 1) / seen.gaps_s[0]}

    async def context(self, length: int) -> dict[str, float]:
        """One request alone, the last token of whose answer is the one of this number; named by what it was here."""
        answer, length = self._length(_CONTEXT_ANSWER), self._length(length)
        seen = await self._ask([self.prompts.text(length - answer)], length - answer, answer)
        num_tokens = seen.usage[0].get("completion", seen.tokens[0])
        return {f"context_{length}_tok_s": (num_tokens - 1) / seen.gaps_s[0]}

    async def prefill(self) -> dict[str, float]:
        """A long prompt. Two tokens out, for a server may hold back the first until it knows a whole character."""
        prompt = self._length(_LONG_PROMPT)
        seen = await self._ask([self.prompts.text(prompt)], prompt, 2)
        return {"prefill_tok_s": prompt / seen.first_s[0]}

    async def crowd(self, num_requests: int) -> dict[str, float]:
        """Requests at once, nothing in common."""
        prompt, answer = self._length(_PROMPT), self._length(_CROWD_ANSWER)
        seen = await self._ask([self.prompts.text(prompt) for _ in range(num_requests)], prompt, answer)
        name = f"c{num_requests}"
        return {f"{name}_tok_s": num_requests * answer / seen.wall_s, f"{name}_ttft_worst_s": max(seen.first_s)}

    async def shared_prefix(self) -> dict[str, float]:
        """Requests that begin alike, after one that did; and as many that do not."""
        head, tail, answer = map(self._length, (_SHARED_HEAD, _SHARED_TAIL, _SHARED_ANSWER))
        shared = await self._alike(_SHARERS)
        unlike = [self.prompts.text(head + tail) for _ in range(_SHARERS)]
        unshared = _SHARERS * answer / (await self._ask(unlike, head + tail, answer)).wall_s
        return {"shared_prefix_tok_s": shared, "unshared_prefix_tok_s": unshared}

    async def many_shared_prefixes(self) -> dict[str, float]:
        """More that begin alike, after one that did."""
        return {"shared_prefix_c32_tok_s": await self._alike(_MANY_SHARERS)}

    async def _alike(self, num_requests: int) -> float:
        """Tokens a second of so many at once."""
        head, tail, answer = map(self._length, (_SHARED_HEAD, _SHARED_TAIL, _SHARED_ANSWER))
        shared = self.prompts.text(head)
        await self._ask([self.prompts.text(tail, shared)], head + tail, answer)
        alike = [self.prompts.text(tail, shared) for _ in range(num_requests)]
        return num_requests * answer / (await self._ask(alike, head + tail, answer)).wall_s

    def _length(self, num_tokens: int) -> int:
        return max(2, round(num_tokens * self.scale))

    async def _ask(self, texts: Sequence[str], prompt: int, answer: int) -> load.Measured:
        """All at once, each on a connection of its own: some servers close theirs after a stream."""
        body = {"model": self.model, "max_tokens": answer, "temperature": 0, "stream": True}
        body |= {"stream_options": {"include_usage": True}, **self.more}
        seen = await load.run(self.port, [{**body, "prompt": text} for text in texts], len(texts), PATH)
        for usage, num_chunks in zip(seen.usage, seen.tokens, strict=True):
            read, written = usage.get("prompt", prompt), usage.get("completion", num_chunks)
            if (read, written) != (prompt, answer):
                self.off.add(f"{read} tokens in and {written} out, not {prompt} and {answer}")
        return seen
