"""Whether a model on this neuron works: one real completion of a few tokens, or a vector, or a score (case D2).

Owns: that request, and what of its answer is a failure. It goes the way of any other, but that a drained neuron takes
it, too: whoever deploys asks so before clients may. Does not own: loading (residency). Called by: control.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import msgspec

from cortex_contracts.wire.errors import EngineFailed, ModelLoading, UpstreamBroken
from cortex_contracts.wire.neuron import LoadRequest, ModelStatus, VerifyAnswer, VerifyRequest
from cortex_dialects.embeddings import Embed
from cortex_dialects.events import Failed, TextDelta
from cortex_dialects.generation import Generation, Sampling, TextPrompt
from cortex_dialects.translate import chat_error_to_error
from cortex_neuron.api.neuron import Neuron
from cortex_neuron.inference import admission, answer, vectors
from cortex_neuron.inference.answer import Record
from cortex_neuron.inference.preparation import prepare, seated
from cortex_neuron.inference.vectors import FLOAT32
from cortex_neuron.residency import states
from cortex_neuron.residency.group_serving import GroupServing
from cortex_neuron.residency.harness import Serving
from cortex_neuron.residency.resident import Resident
from cortex_neuron.vllm.usage import read_document
from cortex_serving import logs

_PROMPT = "The capital of France is"
_TOKENS = 8
_POLL_S = 60.0  # nobody is told that it takes long

Said = tuple[str, int]  # text, tokens


async def verify(neuron: Neuron, wanted: VerifyRequest) -> VerifyAnswer:
    """Load it where it is not, and have it answer. Raises the CortexError that says why it does not."""
    now = asyncio.get_running_loop().time
    resident = neuron.residency.find(wanted.model_id)
    limit_s = wanted.timeout_s or neuron.settings.load_timeout_s + neuron.settings.step_timeout_s
    began, loaded_at = now(), None
    try:
        async with asyncio.timeout(limit_s):
            was_loaded = resident.status is ModelStatus.LOADED
            resident = await _loaded(neuron, resident)
            loaded_at = now()
            text, tokens = await _complete(neuron, resident)
    except TimeoutError as late:
        if loaded_at is None:
            raise ModelLoading(f"model {resident.model.id} is {resident.status} after {limit_s:g} s") from late
        raise EngineFailed(f"model {resident.model.id} did not answer within {limit_s:g} s") from late
    load_s = 0.0 if was_loaded else round(loaded_at - began, 3)
    completion_s = round(now() - loaded_at, 3)
    logs.info("model_verified", model=resident.model.id, load_s=load_s, completion_s=completion_s)
    return VerifyAnswer(
        model_id=resident.model.id, text=text, completion_tokens=tokens, load_s=load_s, completion_s=completion_s
    )


async def _loaded(neuron: Neuron, resident: Resident) -> Resident:
    """The model, once it is loaded or will not be. One that a reload unloads comes back by itself, or is gone then."""
    await resident.left({ModelStatus.DRAINING})
    resident = await neuron.residency.load(LoadRequest(model_id=resident.model.id), also_drained=True)
    await resident.left(states.BUSY)
    return resident


async def _complete(neuron: Neuron, resident: Resident) -> Said:
    """Raises the 503 of its state where it has not been loaded, with the reason."""
    serving = resident.lend()
    if isinstance(serving, GroupServing) and serving.task != "generate":
        return await _by_vector(neuron, resident, serving), 0
    if isinstance(serving, GroupServing):
        text, tokens = await _by_group(neuron, resident, serving)
    else:
        text, tokens = await _by_server(neuron, resident, serving)
    if not text or not tokens:
        raise EngineFailed(f"model {resident.model.id} answered with {tokens} tokens and the text {text!r}")
    return text, tokens


async def _by_vector(neuron: Neuron, resident: Resident, serving: GroupServing) -> str:
    """In words, for there is no text. NaN is an error by itself."""
    with vectors.seated(resident, neuron.seats):
        if serving.task == "embed":
            asked = Embed(resident.model.id, (TextPrompt(_PROMPT),), None, None, in_base64=False)
            prepared = await vectors.prepare_embed(asked, serving, "high")
        else:
            prepared = await vectors.prepare_rerank(_PROMPT, ("Paris",), serving, "high")
        (vector,) = await vectors.compute(prepared, Record())
    if not any(vector):
        raise EngineFailed(f"model {resident.model.id} answered with zeros alone")
    return f"a vector of {len(vector) // FLOAT32} numbers" if serving.task == "embed" else "a score"


async def _by_group(neuron: Neuron, resident: Resident, serving: GroupServing) -> Said:
    # Past the end of a sentence, too: an answer without text is then a fault and no matter of taste.
    generation = Generation(
        resident.model.id, (TextPrompt(_PROMPT),), Sampling(temperature=0.0), max_tokens=_TOKENS, ignore_eos=True
    )
    record, text = Record(), ""
    with seated(generation, resident, neuron.seats):
        prepared = await prepare(generation, serving, "high")
        async with aclosing(answer.events(prepared, record, _POLL_S)) as batches:
            async for event in (event async for batch in batches for event in batch):
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, TextDelta):
                    text += event.text
    return text, record.completion_tokens


async def _by_server(neuron: Neuron, resident: Resident, serving: Serving) -> Said:
    from cortex_neuron.vllm.server import Server  # which is there already: it has loaded the model

    assert isinstance(serving, Server), "there is no third harness"
    asked = {"model": resident.model.id, "prompt": _PROMPT, "max_tokens": _TOKENS, "temperature": 0, "ignore_eos": True}
    admission.check_seats(1, resident.seats_taken, neuron.seats)
    with resident.seats(1), serving.passage() as passage:
        head = await passage.ask("/v1/completions", msgspec.json.encode(asked))
        body = await passage.rest()
    if head.status != 200:
        raise chat_error_to_error(head.status, body, head.headers.get("retry-after"))
    tokens, _ = read_document(body)
    text = msgspec.json.decode(body)["choices"][0].get("text")
    if not isinstance(text, str):
        raise UpstreamBroken(f"vllm sent what is no completion: {body[:200]!r}")
    return text, tokens.completion
