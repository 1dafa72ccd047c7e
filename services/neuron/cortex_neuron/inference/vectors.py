"""Texts as vectors, and documents as scores: what is asked of the engine, and what comes of it.

Owns: everything that can refuse such a request, and its way from submit to close. Does not own: the wire
(cortex_dialects). A text over the model's limit is refused with the figures, never cut. Called by: api.
"""

from __future__ import annotations

import array
import asyncio
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

from cortex_contracts.inventory.clients import PriorityClass
from cortex_contracts.wire.errors import ContextLengthExceeded, InvalidParameter, UnsupportedParameter
from cortex_dialects.embeddings import Embed
from cortex_dialects.generation import TextPrompt, TokenPrompt
from cortex_neuron.group.failures import of_frame
from cortex_neuron.inference import admission
from cortex_neuron.inference.answer import Record
from cortex_neuron.protocol.frames import Encode, Output
from cortex_neuron.residency.group_serving import GroupServing
from cortex_neuron.residency.resident import Resident

FLOAT32 = 4  # bytes
_QUIET_S = 60.0  # nobody is told that it takes long


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that can be submitted."""

    serving: GroupServing
    frame: Encode
    num_tokens: int


@contextmanager
def seated(resident: Resident, seats: int) -> Iterator[None]:
    """Hold one seat, however many texts there are, from before they are tokenised to the end. Raises QueueFull."""
    admission.check_seats(1, resident.seats_taken, seats)
    with resident.seats(1):
        yield


async def prepare_embed(asked: Embed, serving: GroupServing, priority: PriorityClass) -> Prepared:
    """Tokenise and judge. Raises what the client is told."""
    dimensions = _dimensions(asked.dimensions, serving)
    before = _prompt(asked.prompt_name, serving)

    def work() -> Prepared:
        rows = _token_ids(asked.inputs, before, serving)
        _check_lengths(rows, serving.loaded.context, "input", is_list=len(asked.inputs) > 1)
        return _prepared(serving, rows, dimensions=dimensions, priority=priority)

    return await asyncio.to_thread(work)


async def prepare_rerank(
    query: str, documents: Sequence[str], serving: GroupServing, priority: PriorityClass
) -> Prepared:
    """Tokenise and judge. Raises what the client is told."""

    def work() -> Prepared:
        pairs = serving.text.encode_pairs(query, documents)
        rows = [ids for ids, _ in pairs]
        _check_lengths(rows, serving.loaded.context, "documents", is_list=True)
        types = _int32(chain.from_iterable(types for _, types in pairs))
        return _prepared(serving, rows, types=types, priority=priority)

    return await asyncio.to_thread(work)


def _prepared(serving: GroupServing, rows: Sequence[Sequence[int]], **more: Any) -> Prepared:
    lengths = [len(row) for row in rows]
    frame = Encode(id=0, tokens=_int32(chain.from_iterable(rows)), lengths=_int32(lengths), **more)  # the group has ids
    return Prepared(serving, frame, sum(lengths))


async def compute(prepared: Prepared, record: Record) -> list[bytes]:
    """A vector of little-endian float32 for each text, in their order. Raises CortexError."""
    now = asyncio.get_running_loop().time
    record.prompt_tokens, record.submitted_at = prepared.num_tokens, now()
    stream = prepared.serving.group.encode(prepared.frame)
    outputs: dict[int, Output] = {}
    try:
        while len(outputs) < len(stream.ids):
            for output in await stream.next(_QUIET_S):
                if output.finish == "error":
                    raise of_frame(output.error_kind or "", output.error or "the engine failed this request")
                outputs[output.id] = output
    finally:
        stream.close()
    record.first_content_at = now()
    record.queue_ms = min(output.queue_ms for output in outputs.values())
    record.prefill_ms = (record.first_content_at - record.submitted_at) * 1000 - record.queue_ms
    return [outputs[each].vector or b"" for each in stream.ids]


def _dimensions(asked: int | None, serving: GroupServing) -> int | None:
    """How many numbers of a vector are told; None for all."""
    size, purpose = serving.loaded.vector_size, serving.purpose
    if asked is None or asked == size:
        return None
    if not purpose.may_be_cut:
        raise UnsupportedParameter(
            f"dimensions: not supported: neither this model's files nor its matryoshka in the inventory say that its "
            f"vectors may be cut; leave it out or send {size} (it is {asked})",
            param="dimensions",
        )
    if asked > size or (purpose.cuts is not None and asked not in purpose.cuts):
        known = f"up to {size}" if purpose.cuts is None else f"one of {sorted({*purpose.cuts, size})}"
        raise InvalidParameter(f"dimensions: expected {known}; it is {asked}", param="dimensions")
    return asked


def _prompt(name: str | None, serving: GroupServing) -> str:
    """What stands before each text."""
    prompts = serving.purpose.prompts
    if name is not None and name not in prompts:
        known = f"one of {sorted(prompts)}" if prompts else "none: the model's files name no prompts"
        raise InvalidParameter(f"prompt_name: expected {known}; it is {name!r}", param="prompt_name")
    return "" if name is None else prompts[name]


def _token_ids(inputs: Sequence[TextPrompt | TokenPrompt], before: str, serving: GroupServing) -> list[Sequence[int]]:
    texts = [before + each.text for each in inputs if isinstance(each, TextPrompt)]
    if serving.purpose.lowers:
        texts = [each.lower() for each in texts]
    encoded = iter(serving.text.encode_texts(texts))
    return [
        next(encoded) if isinstance(each, TextPrompt) else serving.text.encode(each, param="input") for each in inputs
    ]


def _check_lengths(rows: Sequence[Sequence[int]], most: int, param: str, *, is_list: bool) -> None:
    for number, row in enumerate(rows):
        place = f"{param}[{number}]" if is_list else param
        if not row:
            raise InvalidParameter(f"{place}: has no tokens", param=place)
        if len(row) > most:
            what = "with the query and special tokens " if param == "documents" else ""
            raise ContextLengthExceeded(
                f"{place}: has {what}{len(row)} tokens; this model takes up to {most} at once", param=place
            )


def _int32(numbers: Iterable[int]) -> bytes:
    words = array.array("i", numbers)
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()
