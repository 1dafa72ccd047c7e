"""Which of the waiting texts share a batch. Pure. Called by: engine.vector_engine.

A batch is a rectangle of rows and tokens: texts of unlike length cost what the longest costs.
"""

from __future__ import annotations

from collections.abc import Sequence

# So many of the queue are to be looked at for one batch: a long queue must not make each step longer.
LOOKED_AT = 1024
# Of a batch at least this part is text, the rest is padding.
LEAST_TEXT = 2 / 3


def choose(lengths: Sequence[int], most_tokens: int) -> list[int]:
    """Places in the queue, of texts of these lengths in the order of their turns.

    The first is among them, however long it is, so that each has its turn in the end; others as far as the rectangle
    keeps to `most_tokens` and has little padding.
    """
    chosen, longest, text = [0], lengths[0], lengths[0]
    for place in range(1, len(lengths)):
        tall = max(longest, lengths[place])
        area = (len(chosen) + 1) * tall
        if area <= most_tokens and text + lengths[place] >= LEAST_TEXT * area:
            chosen.append(place)
            longest, text = tall, text + lengths[place]
    return chosen
