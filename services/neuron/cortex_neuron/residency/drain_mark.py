"""That this neuron was drained, kept for a daemon that is started again.

Owns: the file `drained` in the folder of sockets, which is gone after a reboot. Does not own: what being drained means
(residency). Called by: residency.
"""

from __future__ import annotations

from pathlib import Path

from cortex_serving import logs

_FILE = "drained"


class DrainMark:
    """A file that is there, or is not."""

    def __init__(self, runtime_dir: str) -> None:
        self._file = Path(runtime_dir, _FILE)

    @property
    def is_set(self) -> bool:
        """Whether a daemon before this one was drained, and nobody has undrained it since."""
        return self._file.exists()

    def set(self, drained: bool) -> None:
        """Remember it. A disk that is full must not keep an operator from draining: then only the log says so."""
        try:
            if drained:
                self._file.touch()
            else:
                self._file.unlink(missing_ok=True)
        except OSError as failure:
            logs.error("drain_not_kept", file=str(self._file), drained=drained, message=str(failure))
