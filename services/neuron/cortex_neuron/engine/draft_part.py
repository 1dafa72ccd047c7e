"""A draft model, brought up beside the model that it drafts for: whole, on rank 0's device.

Owns: what the `speculative` of a load frame means where it names a model. Does not own: reading (models.loader), or
drafting (engine.draft_model). Called by: engine.rank.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from cortex_neuron.engine.draft_model import DraftLimits, DraftModel
from cortex_neuron.engine.part import Part, num_threads
from cortex_neuron.engine.runner import backend_for
from cortex_neuron.engine.threads import ThreadPlan, measure_threads
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.models.loader import load
from cortex_neuron.models.vocabulary import first_difference
from cortex_neuron.native.decoder import Decoder
from cortex_neuron.protocol.failures import CannotLoad
from cortex_neuron.protocol.frames import Load

_TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class DraftPart:
    """`tokenizer` is what its tokenizer.json says; `load` the frame for all ranks, with the room that it takes."""

    model: LoadedModel
    tokenizer: str
    threads: ThreadPlan | None
    load: Load

    def beside(self, part: Part, tokenizer: str) -> DraftModel:
        """Drafting for this model, once that has been loaded. Raises CannotLoad where they have not one vocabulary."""
        speculation = self.load.speculative
        assert speculation is not None, "bring_up has read it"
        if difference := first_difference(tokenizer, self.tokenizer):
            raise CannotLoad(
                f"{speculation.source} cannot draft for {self.load.source}: it should have the same vocabulary, "
                f"but {difference}"
            )
        if (own := backend_for(self.model).block_size) != part.size.block_size:
            raise CannotLoad(
                f"{speculation.source} cannot draft for {self.load.source}: its attention reads blocks of {own} tokens "
                f"here, and the model's blocks of {part.size.block_size}"
            )
        limits = DraftLimits(
            tokens=speculation.num_speculative_tokens,
            sequences=self.load.max_sequences,
            step_tokens=part.step_tokens,
            vocab_size=part.model.vocab_size,
        )
        return DraftModel(self.model, part.size, limits, self.threads)


def bring_up(frame: Load, progress: Callable[[str, float], None]) -> DraftPart | None:
    """The draft model of this frame, where it names one. Raises CannotLoad."""
    speculation = frame.speculative
    if speculation is None or speculation.source is None:
        return None
    threads = num_threads(frame)
    torch.set_num_threads(threads)
    source, device = speculation.source, frame.devices[0]
    with tempfile.TemporaryDirectory() as folder:
        model = load(source, device, frame.quant, folder, threads, lambda _, part: progress("draft", part))
        tokenizer = Path(folder, _TOKENIZER).read_text(encoding="utf-8")
    # Of several ranks each has the threads of its part, whatever the step.
    measures = model.device.type == "cpu" and len(frame.devices) == 1 and not isinstance(model.module, Decoder)
    plan = measure_threads(model.module, threads) if measures else None
    taken = msgspec.structs.replace(speculation, weight_bytes=model.num_bytes, token_bytes=model.shape.token_bytes)
    return DraftPart(model, tokenizer, plan, msgspec.structs.replace(frame, speculative=taken))
