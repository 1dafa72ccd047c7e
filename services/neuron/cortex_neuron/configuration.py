"""Reading neuron.toml, once, at the edge.

Owns: opening the file and what the schema alone cannot say of it. Does not own: the schema
(cortex_contracts.inventory). Called by: cli.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from cortex_contracts.inventory.files import ConfigInvalid, NeuronFile, parse

_SOCKET_PATH_LIMIT = 107  # bytes of a Unix socket's address, less the closing zero
_LONGEST_SOCKET_NAME = "g999999.ipc"


def read(path: str) -> NeuronFile:
    """The file's content. Raises ConfigInvalid with every problem at once."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as failure:
        raise ConfigInvalid([f"{path}: cannot be read: {failure.strerror}"]) from failure
    except UnicodeDecodeError as failure:
        raise ConfigInvalid([f"{path}: not UTF-8: {failure.reason} at byte {failure.start}"]) from failure
    file = parse(text, path, NeuronFile)
    problems = [f"{path}: {problem}" for problem in relation_problems(file)]
    if problems:
        raise ConfigInvalid(problems)
    return file


def relation_problems(file: NeuronFile) -> list[str]:
    """What is wrong between values that are right one by one."""
    names = Counter(name for model in file.models for name in (model.id, *model.aliases))
    problems = [f"models: the name {name!r} is given {times} times" for name, times in names.items() if times > 1]
    socket_path = f"{file.neuron.runtime_dir}/{_LONGEST_SOCKET_NAME}"
    if len(socket_path.encode()) > _SOCKET_PATH_LIMIT:
        problems.append(
            f"neuron.runtime_dir: {file.neuron.runtime_dir!r} is too long: sockets live there, "
            f"and their path may have {_SOCKET_PATH_LIMIT} bytes"
        )
    return problems
