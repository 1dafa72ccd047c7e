"""What a command says while it works: one line that changes on a terminal, a line a stage elsewhere."""

from __future__ import annotations

import shutil
from typing import TextIO


class Progress:
    """Prints to a stream; `say` lines stay, a `stage` is replaced by what comes next."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._stage = ""

    def say(self, text: str) -> None:
        """A line, or several, that stay."""
        self._print(f"{self._wiped()}{text}\n")

    def stage(self, stage: str, detail: str = "") -> None:
        """What is being done; the detail is for those who watch."""
        if self._live:
            text = f"{stage} {detail}".rstrip()
            self._print(f"{self._wiped()}{text[: shutil.get_terminal_size().columns - 1]}")
        elif stage != self._stage:
            self._print(f"{stage}\n")
        self._stage = stage

    def _wiped(self) -> str:
        return "\r\x1b[K" if self._live else ""

    def _print(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
