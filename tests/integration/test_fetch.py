"""`cortex-neuron fetch` as it is typed, on local folders and on a hub of this machine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gateway_process import until
from hub_server import REVISION, hub

BIN = Path(sys.executable).parent
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "README.md": b"of no use to a daemon"}
SHARDS = {
    "config.json": b"{}",
    "model.safetensors.index.json": json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}).encode(),
    "a.safetensors": b"a" * 5000,
    "b.safetensors": b"b" * 6000,
}


@dataclass(frozen=True)
class Ended:
    """What a run printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        return {each["model"]: each for each in json.loads(self.out)["models"]}


def write_catalogue(folder: Path, sources: dict[str, str], **environment: str) -> list[str]:
    """A neuron.toml and a models.toml; the options that name them. Each model has an alias."""
    lines = ["[neuron]", 'name = "here"', "[neuron.environment]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in environment.items()]
    (folder / "neuron.toml").write_text("\n".join(lines))
    lines = []
    for name, source in sources.items():
        lines += ["[[models]]", f'id = "{name}"', f'aliases = ["{name}-alias"]', "vram_mb = 1"]
        lines.append(f"source = {json.dumps(source)}")
    (folder / "models.toml").write_text("\n".join(lines))
    return ["--config", str(folder / "neuron.toml"), "--models", str(folder / "models.toml")]


async def start(folder: Path, *options: str, **environment: str) -> asyncio.subprocess.Process:
    """`cortex-neuron fetch` with a cache of its own."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "CREDENTIALS_"))}
    return await asyncio.create_subprocess_exec(
        str(BIN / "cortex-neuron"), "fetch", *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**known, "HF_HOME": str(folder / "cache"), "HF_HUB_ETAG_TIMEOUT": "5", **environment},
    )  # fmt: skip


async def fetch(folder: Path, *options: str, **environment: str) -> Ended:
    process = await start(folder, *options, **environment)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


def snapshot(folder: Path, repository: str) -> Path:
    return folder / "cache/hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / REVISION


def partial(folder: Path) -> list[Path]:
    return list((folder / "cache/hub").glob("*/blobs/*.incomplete"))


async def test_a_repository_comes_whole_and_is_not_fetched_again(tmp_path: Path) -> None:
    """Where the daemon looks, and no file that it does not read; the second run asks nobody, nor does a dry one."""
    async with hub() as here:
        here.repositories = {"org/one": FILES, "org/two": SHARDS}
        told = write_catalogue(tmp_path, {"one": "org/one", "two": "org/two"}, HF_ENDPOINT=here.url)
        first = await fetch(tmp_path, "--all", *told)
        assert (first.code, first.err) == (0, "")
        assert first.lines == [
            f"one: fetched: {snapshot(tmp_path, 'org/one')}",
            f"two: fetched: {snapshot(tmp_path, 'org/two')}",
            "all of 2 models are here",
        ]
        assert (snapshot(tmp_path, "org/one") / "model.safetensors").read_bytes() == WEIGHTS
        assert sorted(here.fetched()) == sorted(["config.json", "model.safetensors", *SHARDS])
        here.asked.clear()
        for options in ((), ("--dry-run",)):
            again = await fetch(tmp_path, "one-alias", "one", *options, *told)
            assert (again.code, again.lines[0]) == (0, f"one: present: {snapshot(tmp_path, 'org/one')}")
            assert again.lines[1:] == ["all of 1 models are here"]
        assert here.asked == []


async def test_a_dry_run_says_what_is_missing_and_asks_nobody(tmp_path: Path) -> None:
    """Of a repository of which nothing is here, of one that lacks a file, and of a folder."""
    async with hub() as here:
        here.repositories = {"org/one": FILES, "org/two": SHARDS}
        sources = {"one": "org/one", "two": "org/two", "gone": str(tmp_path / "gone")}
        told = write_catalogue(tmp_path, sources, HF_ENDPOINT=here.url)
        assert (await fetch(tmp_path, "two", *told)).code == 0
        (snapshot(tmp_path, "org/two") / "b.safetensors").unlink()
        for listing in (tmp_path / "cache/hub/models--org--two/trees").glob("*"):
            listing.unlink()  # by which newer versions of the library see that the folder is not whole
        here.asked.clear()
        dry = await fetch(tmp_path, "--all", "--dry-run", "--json", *told)
        assert dry.code == 1
        assert {name: model["state"] for name, model in dry.models.items()} == dict.fromkeys(sources, "missing")
        assert "b.safetensors is not on this host" in dry.models["two"]["reason"]
        assert "it is not on this host" in dry.models["one"]["reason"]
        assert "no such file or folder" in dry.models["gone"]["reason"]
        assert here.asked == []


async def test_local_sources_are_looked_for_and_said_to_be_local(tmp_path: Path) -> None:
    """A folder, a file, and one that is not there; a hub is never asked for them."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "model.gguf").touch()
    sources = {name: str(tmp_path / path) for name, path in (("a", "folder"), ("b", "model.gguf"), ("c", "none"))}
    ended = await fetch(tmp_path, "--all", *write_catalogue(tmp_path, sources, HF_ENDPOINT="http://127.0.0.1:9"))
    assert (ended.code, ended.err) == (1, "")
    assert ended.lines[:2] == [
        f"a: present: {tmp_path}/folder (a local source)",
        f"b: present: {tmp_path}/model.gguf (a local source)",
    ]
    assert ended.lines[2].startswith(f"c: failed: source '{tmp_path}/none': no such file or folder")
    assert ended.lines[3] == "1 of 3 models are not here"


async def test_one_that_cannot_be_fetched_keeps_no_other_from_coming(tmp_path: Path) -> None:
    """Each has its own reason: a repository that is hidden, one without weights, one that is there."""
    async with hub() as here:
        here.repositories = {"org/one": FILES, "org/bare": {"config.json": b"{}"}}
        sources = {"none": "org/none", "bare": "org/bare", "one": "org/one"}
        told = write_catalogue(tmp_path, sources, HF_ENDPOINT=here.url)
        ended = await fetch(tmp_path, "--all", "--json", *told)
        assert ended.code == 1
        assert [model["state"] for model in ended.models.values()] == ["failed", "failed", "fetched"]
        assert "no such repository, or hides it" in ended.models["none"]["reason"]
        assert "lacks model.safetensors" in ended.models["bare"]["reason"]


async def test_a_hub_that_does_not_answer_is_a_reason(tmp_path: Path) -> None:
    """And not a traceback."""
    told = write_catalogue(tmp_path, {"one": "org/one"}, HF_ENDPOINT="http://127.0.0.1:9")
    ended = await fetch(tmp_path, "one", *told)
    assert ended.code == 1
    assert ended.lines[0].startswith("one: failed: source 'org/one' cannot be fetched: ")
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["two", "one"], "no such model: two; there is: one, one-alias"),
        ([], "name the models to fetch, or say --all"),
        (["one", "--all"], "name the models to fetch, or say --all"),
        (["--all", "--config", "/nowhere/neuron.toml"], "/nowhere/neuron.toml: cannot be read"),
    ],
)
async def test_what_cannot_be_meant_is_refused_before_anything_is_done(
    tmp_path: Path, options: list[str], words: str
) -> None:
    """Exit 2, and what is wrong with it."""
    told = write_catalogue(tmp_path, {"one": "org/one"}, HF_ENDPOINT="http://127.0.0.1:9")
    ended = await fetch(tmp_path, *told, *options)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err


async def test_a_connection_that_breaks_goes_on_where_it_broke(tmp_path: Path) -> None:
    """What has come is not sent again; the library counts it by pieces of 10 MB."""
    weights = WEIGHTS * 24
    async with hub() as here:
        here.repositories, here.cut_once = {"org/one": {**FILES, "model.safetensors": weights}}, True
        ended = await fetch(tmp_path, "one", *write_catalogue(tmp_path, {"one": "org/one"}, HF_ENDPOINT=here.url))
        assert ended.code == 0, ended
        assert (snapshot(tmp_path, "org/one") / "model.safetensors").read_bytes() == weights
        (resumed,) = here.ranges
        assert int(resumed.removeprefix("bytes=").removesuffix("-")) >= len(weights) // 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_run_ends_at_once_and_the_next_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    """Nothing half of it is left to fill the disk, and the files that were whole are not fetched again."""
    async with hub() as here:
        here.repositories = {"org/one": FILES}
        told = write_catalogue(tmp_path, {"one": "org/one"}, HF_ENDPOINT=here.url)
        here.holds_back = "model.safetensors"
        small = snapshot(tmp_path, "org/one") / "config.json"
        process = await start(tmp_path, "one", *told)
        await until(lambda: small.exists() and bool(partial(tmp_path)))
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), 3) == 130
        assert partial(tmp_path) == []
        here.holds_back = ""
        here.asked.clear()
        assert (await fetch(tmp_path, "one", *told)).code == 0
        assert here.fetched() == ["model.safetensors"]


@pytest.mark.parametrize("by", ["credential", "environment", "both"])
async def test_the_hub_is_shown_the_token_and_nobody_else_is(tmp_path: Path, by: str) -> None:
    """The unit's credential, else HF_TOKEN; a credential is taken first. It is in no output and on no command line."""
    async with hub() as here:
        here.repositories, here.token = {"org/one": FILES}, "canary-right"
        told = write_catalogue(tmp_path, {"one": "org/one", "none": "org/none"}, HF_ENDPOINT=here.url)
        without = await fetch(tmp_path, "one", *told)
        assert without.code == 1
        environment = {}
        if by != "environment":
            (tmp_path / "hub-token").write_text("canary-right\n")
            environment["CREDENTIALS_DIRECTORY"] = str(tmp_path)
        if by != "credential":
            environment["HF_TOKEN"] = "canary-right" if by == "environment" else "canary-wrong"
        here.asked.clear()
        ended = await fetch(tmp_path, "--all", *told, **environment)
        assert [line.split(": ")[:2] for line in ended.lines[:2]] == [["one", "fetched"], ["none", "failed"]]
        assert not [asked for asked in here.asked if asked[2] != "Bearer canary-right"]
        assert "canary" not in ended.out + ended.err
