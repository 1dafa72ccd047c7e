"""How far a server's next-token distributions are from those of the same weights in float32.

Owns: the reference, asking a server for its likeliest tokens after the reference's own text, the divergence. Does not
own: the prompts and the reference's answers (tests/oracle). Called by: __main__.py.

A server tells its few likeliest tokens; the rest of either side counts as one token more, so what is found is at most
the divergence over the whole vocabulary. Answers are generated, so that the step which decodes is what is judged: where
one leaves the reference's text, the server is asked again from there.
"""

from __future__ import annotations

import json
import math
import statistics
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.engine_speed import checkpoint
from tests.bench.engine_speed.loads import PATH
from tests.bench.engine_speed.servers import Server
from tests.bench.processes import ROOT

_ORACLE = ROOT / "tests/oracle/smollm2_135m.json"
_NUM_LIKELIEST = 20
_TIMEOUT_S = 120
_NO_CHARACTER = "\ufffd"  # many tokens look like this, and a server tells of one of them
_LEAST = 1e-9  # of a share: what a server rounds to nothing


@dataclass(frozen=True, slots=True)
class Text:
    """The tokens of a prompt, and what the reference says after it: ids, texts, and at each place the probabilities by
    token text, which is empty for special tokens."""

    prompt_ids: Sequence[int]
    ids: Sequence[int]
    tokens: Sequence[str]
    shares: Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Place:
    """A server's next token and its likeliest ones, as log-probabilities by text."""

    token: str
    likeliest: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Reference:
    """The prompts of tests/oracle and float32's answers to them."""

    texts: Sequence[Text]

    @classmethod
    def load(cls) -> Reference:
        """Runs the whole model once over each text."""
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoModelForCausalLM

        tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_file()))
        names = [tokenizer.decode([i]) for i in range(tokenizer.get_vocab_size())]
        model = AutoModelForCausalLM.from_pretrained(checkpoint.float32_folder(), dtype=torch.float32)
        texts = []
        for prompt in json.loads(_ORACLE.read_text())["prompts"]:
            read, written = prompt["prompt_ids"], prompt["token_ids"]
            with torch.inference_mode():
                logits = model(torch.tensor([read + written[:-1]])).logits[0, len(read) - 1 :]  # [written, vocabulary]
            shares = [_by_text(names, row) for row in logits.softmax(-1).tolist()]
            texts.append(Text(read, written, [names[i] for i in written], shares))
        return cls(texts)


def measuring(reference: Reference | None, distances: dict[str, float]) -> Callable[[Server], None] | None:
    """What runs.measure shall also do: leave in `distances` what is found of a server that tells log-probabilities."""
    if reference is None:
        return None

    def measure(server: Server) -> None:
        if server.spec.logprobs:
            distances.update(_distance(server, reference))

    return measure


def divergence(shares: Mapping[str, float], likeliest: Mapping[str, float]) -> float:
    """Kullback-Leibler, in nats, of a server's likeliest tokens and the rest from the reference's `shares`.

    Servers do not agree on the text of a special token: those belong to the rest.
    """
    told = {text: each for text, each in likeliest.items() if text in shares and text and _NO_CHARACTER not in text}
    pairs = [(shares.get(text, 0.0), math.exp(logprob)) for text, logprob in told.items()]
    rest = (1 - sum(mine for mine, _ in pairs), 1 - sum(theirs for _, theirs in pairs))
    known = ((mine, max(theirs, _LEAST)) for mine, theirs in (*pairs, rest) if mine > _LEAST)
    return sum(mine * math.log(mine / theirs) for mine, theirs in known)


def _by_text(names: Sequence[str], shares: Sequence[float]) -> dict[str, float]:
    """Tokens with the same text, such as bytes that are no character alone, count as one."""
    known: dict[str, float] = {}
    for text, share in zip(names, shares, strict=True):
        known[text] = known.get(text, 0.0) + share
    return known


def _distance(server: Server, reference: Reference) -> dict[str, float]:
    found, first = [], []
    for text in reference.texts:
        for at, place in _places(server, text):
            found.append(divergence(text.shares[at], place.likeliest))
            mine = max(text.shares[at], key=text.shares[at].__getitem__)
            theirs = max(place.likeliest, key=place.likeliest.__getitem__)
            first.append(mine == (theirs if theirs in text.shares[at] else ""))
    return {"kl_nats": statistics.fmean(found), "top_1": statistics.fmean(first), "num_places": len(found)}


def _places(server: Server, text: Text) -> Iterator[tuple[int, Place]]:
    at = 0
    while at < len(text.tokens):
        prompt = [*text.prompt_ids, *text.ids[:at]]
        for place in _answer(server, prompt, len(text.tokens) - at):
            yield at, place
            at += 1
            if place.token != text.tokens[at - 1]:
                break
        else:
            at += 1  # it ended there, as the reference may have


def _answer(server: Server, prompt: list[int], num_tokens: int) -> list[Place]:
    body = {
        "model": server.loads.model, "prompt": prompt, "max_tokens": num_tokens, "temperature": 0,
        "logprobs": _NUM_LIKELIEST,
    }  # fmt: skip
    url = f"http://127.0.0.1:{server.loads.port}{PATH}"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        choice = json.loads(answer.read())["choices"][0]
    return list(_told(choice.get("logprobs") or {}))


def _told(logprobs: Mapping[str, Any]) -> Iterator[Place]:
    """OpenAI's completions tell maps by text; llama.cpp's, like chats, a list."""
    if "content" in logprobs:
        for each in logprobs["content"]:
            yield Place(each["token"], {top["token"]: top["logprob"] for top in each["top_logprobs"]})
    else:
        yield from map(Place, logprobs.get("tokens", ()), logprobs.get("top_logprobs", ()))
