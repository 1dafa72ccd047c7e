"""`cortex bundle`: builds what is not there yet, and says where it lies.

Owns: the order, what is printed, the exit codes. Called by: cortex_status.cli; roles/cortex_common, with --json.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from cortex_status.bundle import archive, source
from cortex_status.bundle.failures import BundleFailed
from cortex_status.bundle.source import Checkout
from cortex_status.bundle.target import EXTRAS, OLDEST_PYTHON, Target
from cortex_status.progress import Progress

EXITS = "Exit codes: 0 the bundle is there, 1 it cannot be built, 2 the command line cannot be used."
ID_CHARACTERS = 12


class Part(BaseModel):
    """What hosts of one kind install; paths are of this machine. Without --dry-run every field is there.

    `kind` is as on the command line.
    """

    kind: str
    release: str | None
    wheel: Path | None
    dependencies: str | None
    archive: Path | None


class Bundle(BaseModel):
    """What --json prints."""

    version: str
    built: list[str]
    parts: list[Part]


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's options."""
    text = "build what hosts install: cortex and all that it needs, for hosts without a network"
    parser = commands.add_parser("bundle", help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=EXITS)
    here = f"{'+'.join(EXTRAS)}:{sys.version_info[0]}.{sys.version_info[1]}:{platform.machine()}"
    parser.add_argument(
        "targets", nargs="*", type=target, default=[target(here)], metavar="PROGRAMS:PYTHON:MACHINE",
        help=f"as gateway:3.12:x86_64, or gateway+neuron:…; several may be given (default: {here})",
    )  # fmt: skip
    parser.add_argument("--folder", type=Path, default=Path("build/bundle"), help="default: %(default)s")
    parser.add_argument("--checkout", type=Path, default=Path(), help="cortex's own (default: where this is run)")
    parser.add_argument("--dry-run", action="store_true", help="build nothing; what is not there is null")
    parser.add_argument("--json", action="store_true", help="print what there is as JSON")


def target(text: str) -> Target:
    """Raises ArgumentTypeError with what is wrong."""
    programs, _, rest = text.partition(":")
    python, _, machine = rest.partition(":")
    names = tuple(sorted(set(programs.split("+"))))
    version = re.fullmatch(r"(\d+)\.(\d+)", python)
    if not set(names) <= EXTRAS.keys() or version is None or not re.fullmatch(r"\w+", machine):
        raise argparse.ArgumentTypeError(f"{text!r} should be such as gateway+neuron:3.12:x86_64")
    number = (int(version[1]), int(version[2]))
    if number < OLDEST_PYTHON:
        raise argparse.ArgumentTypeError(f"{text!r}: cortex needs Python {'.'.join(map(str, OLDEST_PYTHON))} or later")
    return Target(names, number, machine)


def run(options: argparse.Namespace) -> int:
    """Build and print. Returns the exit code."""
    progress = Progress(sys.stderr)
    try:
        checkout = source.checkout(options.checkout.resolve())
        if options.dry_run:
            bundle = _found(checkout, options.targets, options.folder)
        else:
            with _alone(options.folder):
                bundle = _built(checkout, options.targets, options.folder, progress)
    except (BundleFailed, OSError) as failure:
        print(failure, file=sys.stderr)
        return 1
    print(bundle.model_dump_json(indent=2) if options.json else _text(bundle))
    return 0


def _found(checkout: Checkout, targets: list[Target], folder: Path) -> Bundle:
    wheel = next((folder / "cortex" / source.digest(checkout.folder)).glob("*.whl"), None)
    found = [(each, archive.find(checkout, each, folder / "dependencies")) for each in targets]
    return Bundle(version=checkout.version, built=[], parts=[_part(checkout, each, wheel, has) for each, has in found])


def _built(checkout: Checkout, targets: list[Target], folder: Path, progress: Progress) -> Bundle:
    parts, built = [], []
    progress.stage("building cortex's wheel")
    wheel = source.wheel(checkout, folder / "cortex")
    for each in targets:
        dependencies = archive.find(checkout, each, folder / "dependencies")
        if dependencies is None:
            progress.stage(f"fetching what cortex needs for {each.name}", "(torch is the large one)")
            dependencies = archive.pack(checkout, each, folder / "dependencies")
            built.append(each.name)
        parts.append(_part(checkout, each, wheel, dependencies))
    progress.say("")
    return Bundle(version=checkout.version, built=built, parts=parts)


def _part(checkout: Checkout, target: Target, wheel: Path | None, dependencies: archive.Dependencies | None) -> Part:
    if wheel is None or dependencies is None:
        return Part(kind=str(target), release=None, wheel=wheel, dependencies=None, archive=None)
    content = f"{hashlib.sha256(wheel.read_bytes()).hexdigest()} {dependencies.id}"
    release = f"{checkout.version}-{hashlib.sha256(content.encode()).hexdigest()[:ID_CHARACTERS]}"
    return Part(
        kind=str(target), release=release, wheel=wheel.resolve(),
        dependencies=dependencies.id, archive=dependencies.archive.resolve(),
    )  # fmt: skip


def _text(bundle: Bundle) -> str:
    lines = [f"{part.kind}: {part.release or 'not built'} ({part.archive or 'no archive'})" for part in bundle.parts]
    return "\n".join(lines)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of several that build at once, one builds and the others find it built."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
