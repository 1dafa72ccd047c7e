"""A draft model, brought up beside the model that it drafts for: whole, on rank 0's device.

Owns: what the `speculative` of a load frame means where it names a model. Does not own: reading (models.loader), or
drafting (engine.draft_model). Called by: engine.rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from cortex_neuron.engine.draft_model import DraftLimits, DraftModel
from cortex_neuron.engine.part import Part, num_threads
from cortex_neuron.engine.threads import ThreadPlan, measure_threads
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.models.loader import load
from cortex_neuron.models.vocabulary import first_difference
from cortex_neuron.native.decoder import Decoder
from cortex_neuron.protocol.failures import CannotLoad
from cortex_neuron.protocol.frames import Load

_TEXT_DIR = "draft"  # within the model's


@dataclass(frozen=True, slots=True)
class DraftPart:
    """`load` is the frame for all ranks, which says how much room the draft model takes."""

    model: LoadedModel
    threads: ThreadPlan | None
    load: Load

    def beside(self, part: Part) -> DraftModel:
        """Drafting for this model, once that has been loaded. Raises CannotLoad where they have not one vocabulary."""
        speculation = self.load.speculative
        assert speculation is not None, "bring_up has read it"
        text_dir = Path(self.load.text_dir)
        if difference := first_difference(text_dir, text_dir / _TEXT_DIR):
            raise CannotLoad(
                f"{speculation.source} cannot draft for {self.load.source}: it should have the same vocabulary, "
                f"but {difference}"
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
    text_dir = str(Path(frame.text_dir, _TEXT_DIR))
    model = load(
        speculation.source, frame.devices[0], frame.quant, text_dir, threads, lambda _, part: progress("draft", part)
    )
    # Of several ranks each has the threads of its part, whatever the step.
    measures = model.device.type == "cpu" and len(frame.devices) == 1 and not isinstance(model.module, Decoder)
    plan = measure_threads(model.module, threads) if measures else None
    taken = msgspec.structs.replace(speculation, weight_bytes=model.num_bytes, token_bytes=model.shape.token_bytes)
    return DraftPart(model, plan, msgspec.structs.replace(frame, speculative=taken))
