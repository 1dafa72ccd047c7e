"""docs/protocol.md, by which the frames between daemon and engine are read, against the code that sends them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pages import ROOT, page, rows

from cortex_contracts.wire.errors import UnsupportedArchitecture
from cortex_neuron.protocol import frames
from cortex_neuron.protocol.failures import RankFailure

TEXT = page("protocol.md")
SOURCES = ROOT / "services" / "neuron" / "cortex_neuron"
SENDERS = ("engine", "models", "layers", "protocol", "group", "residency", "vllm")
SENT = [
    (frames.ToRank, "daemon"),
    (frames.ToWorker, "leader"),
    (frames.FromRank, "rank"),
    (frames.FromWorker, "worker"),
]
# Fields and parameters that a kind travels in.
KIND_NAMES = {"kind", "error_kind"}


def written(frame: type[frames.Frame], sender: str) -> tuple[str, str, list[str]]:
    fields = [name for name in frame.__struct_fields__ if name not in frames.Frame.__struct_fields__]
    return f"`{frame.__struct_config__.tag}`", sender, fields


def test_every_frame_has_its_row_and_every_row_its_frame() -> None:
    """With who sends it, and its fields in their order."""
    senders: dict[type[frames.Frame], list[str]] = {}
    for union, sender in SENT:
        for frame in get_args(union):
            senders.setdefault(frame, []).append(sender)
    sent = [written(frame, _said_by(those)) for frame, those in senders.items()]
    told = rows(TEXT, "Frames")
    assert [(op, sender, fields.split(", ") if fields else []) for op, sender, fields, _ in told] == sent


def _said_by(senders: list[str]) -> str:
    """A worker is a rank, too."""
    return ", ".join(each for each in senders if each != "worker" or "rank" not in senders)


def test_what_is_inside_of_frames_is_told_by_name_and_place() -> None:
    """Lists have no names on the wire: only this page tells their order."""
    unfolded = " ".join(TEXT.split())
    for shape in (frames.Output, frames.TokenLogprobs):
        assert f"`[{', '.join(shape.__struct_fields__)}]`" in unfolded
    for keyed in (frames.SamplingParams, frames.Speculation):
        assert f"`{{{', '.join(keyed.__struct_fields__)}}}`" in unfolded
    assert TEXT.startswith(f"# Protocol between daemon and engine group, version {frames.PROTOCOL_VERSION}\n")


def test_every_error_kind_has_its_row_and_every_row_its_kind() -> None:
    """Those that a rank sends, those that the daemon finds, and those of a load that needs no rank to fail."""
    kinds = {kind for path in modules() for kind in kinds_of(ast.parse(path.read_text()))}
    assert {row[0].strip("`") for row in rows(TEXT, "Error kinds")} == kinds | {UnsupportedArchitecture.code}


def _tree(failure: type[RankFailure]) -> Iterator[type[RankFailure]]:
    yield failure
    for each in failure.__subclasses__():
        if each.__module__.startswith("cortex_neuron."):
            yield from _tree(each)


@pytest.mark.parametrize("failure", [*_tree(RankFailure)], ids=lambda failure: failure.kind)
def test_what_a_rank_calls_fatal_reaches_the_group(failure: type[RankFailure]) -> None:
    """And what it does not fails one request."""
    reach = {row[0].strip("`"): row[2] for row in rows(TEXT, "Error kinds")}
    assert reach[failure.kind] == ("group" if failure.fatal else "request")


def modules() -> list[Path]:
    return [path for package in SENDERS for path in (SOURCES / package).rglob("*.py")]


def kinds_of(module: ast.Module) -> Iterator[str]:
    """Every string that is given to something called a kind: an argument, a field, a class's or a variable's value."""
    for node in ast.walk(module):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in KIND_NAMES:
                yield from _strings(value)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=arguments, keywords=named):
                at = _PLACES.get(name, len(arguments))
                for value in [*arguments[at : at + 1], *(each.value for each in named if each.arg in KIND_NAMES)]:
                    yield from _strings(value)


def _strings(value: ast.expr) -> Iterator[str]:
    match value:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=body, orelse=otherwise):
            yield from (*_strings(body), *_strings(otherwise))


def _places() -> Iterator[tuple[str, int]]:
    """The name of each function or class that takes a kind, and at which place."""
    for node in (node for path in modules() for node in ast.walk(ast.parse(path.read_text()))):
        for at, name in enumerate(_parameters(node)):
            if name in KIND_NAMES and isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name, at


def _parameters(node: ast.AST) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return [each.arg for each in node.args.args if each.arg != "self"]
        case ast.ClassDef():
            for each in node.body:
                if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                    return _parameters(each)
            return [each.target.id for each in node.body if isinstance(each, ast.AnnAssign)]
    return []


_PLACES = dict(_places())
