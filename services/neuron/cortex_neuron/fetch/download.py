"""One repository's download, watched while it goes on.

Owns: the thread that it runs in, how much of it is on the disk, and what an interrupted one leaves. Does not own: how
it is fetched (residency.sources). Called by: fetch.command.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path

from cortex_neuron.residency import sources

TELL_EVERY_S = 5.0
_BLOCK_BYTES = 512  # of st_blocks: a file that is written from several places has holes
_PARTIAL = ".incomplete"


def run(source: str, tell: Callable[[int], None], every_s: float = TELL_EVERY_S) -> Path:
    """The files of a repository, from the network; `tell` is told the bytes on the disk, every so often.

    In a thread, so that a signal is heard at once. Raises SourceMissing, SourceUnreachable, and ValueError for what the
    library takes for no repository.
    """
    done: Future[Path] = Future()

    def work() -> None:
        try:
            done.set_result(sources.fetch(source))
        except BaseException as failure:  # noqa: BLE001  it is raised again where it is waited for
            done.set_exception(failure)

    threading.Thread(target=work, daemon=True).start()
    while not wait([done], every_s).done:
        tell(_stored_bytes(sources.cache_folder(source)))
    return done.result()


def remove_partial_files() -> None:
    """Of this process, which is about to end: each has a name of its own, so that nobody would go on with it.

    Versions of the library that go on with a partial file give it the name of the whole one; that stays.
    """
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            file = Path(os.readlink(descriptor))
        except OSError:
            continue  # it was of this loop, or has just been closed
        if file.suffix == _PARTIAL and "." in file.stem:
            file.unlink(missing_ok=True)


def _stored_bytes(folder: Path) -> int:
    stored = 0
    for file in folder.glob("blobs/*"):
        try:
            stored += file.stat().st_blocks * _BLOCK_BYTES
        except FileNotFoundError:
            continue  # it has just got its final name
    return stored
