"""Where rank 0 leaves what the daemon reads a model's language from: a folder for each model, kept for its next load.

Owns: the folders, and how many are kept. Does not own: their files (models.text_files). Called by: loading.

To turn the vocabulary of a GGUF file into a tokenizer takes a third of the load of a small model.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

NAME = "text"
_KEPT = 8  # a runtime folder is mostly in memory, and a large vocabulary takes 20 MB of it


@dataclass(slots=True)
class TextFolders:
    """Those below `root`."""

    root: Path
    _in_use: Counter[str] = field(default_factory=Counter)
    _kept: dict[str, None] = field(default_factory=dict)  # by model, the last lent is the last

    @contextmanager
    def lent(self, model_id: str, keep: bool) -> Iterator[Path]:
        """The model's, for as long as it is being loaded, and with `keep` after that."""
        folder = self._of(model_id)
        folder.mkdir(parents=True, exist_ok=True)
        self._kept.pop(model_id, None)
        self._kept[model_id] = None
        self._in_use[model_id] += 1
        try:
            yield folder
        finally:
            self._in_use[model_id] -= 1
            if not keep:
                self._forget(model_id)
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        idle = [model_id for model_id in self._kept if not self._in_use[model_id]]
        for model_id in idle[: max(0, len(self._kept) - _KEPT)]:
            self._forget(model_id)

    def _forget(self, model_id: str) -> None:
        del self._kept[model_id], self._in_use[model_id]
        shutil.rmtree(self._of(model_id), ignore_errors=True)
        with suppress(OSError):  # others are kept
            self.root.rmdir()

    def _of(self, model_id: str) -> Path:
        return self.root / quote(model_id, safe="")
