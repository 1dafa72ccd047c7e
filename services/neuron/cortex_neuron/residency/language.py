"""A model's language, read while the rest of the model is being loaded.

Owns: when that begins. Does not own: the files (rank 0 leaves them, residency.text_folders has the folder), or what is
made of them (text.text_model). Called by: loading, for one load.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType

from cortex_contracts.inventory.fleet import ToolParser
from cortex_neuron.protocol.frames import TEXT_IS_THERE, LoadProgress
from cortex_neuron.text import text_model
from cortex_neuron.text.text_model import Files, TextModel


class Language:
    """Entered for as long as the folder is there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reading: asyncio.Future[Files] | None = None

    async def __aenter__(self) -> Language:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._reading is not None:  # a load that has failed: what became of this is nobody's concern
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def told(self, progress: LoadProgress) -> None:
        """So far the load is."""
        if progress.phase == TEXT_IS_THERE:
            self._begin()

    async def of(self, vocab_size: int, tool_parser: ToolParser | None) -> TextModel:
        """The loaded model's. Raises OSError, ValueError, TemplateRenderFailed."""
        files = await self._begin()
        return await asyncio.to_thread(text_model.of, files, vocab_size, tool_parser)

    def _begin(self) -> asyncio.Future[Files]:
        if self._reading is None:
            self._reading = asyncio.ensure_future(asyncio.to_thread(text_model.read, self._folder))
        return self._reading
