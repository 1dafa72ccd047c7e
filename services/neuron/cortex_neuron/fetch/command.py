"""`cortex-neuron fetch` from its options to its exit code.

Owns: which models, their order, the environment, signals, and what is printed. Does not own: where files are
(residency.sources). Called by: cortex_neuron.cli.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from cortex_contracts.inventory.files import ConfigInvalid
from cortex_contracts.inventory.fleet import Model
from cortex_neuron.configuration import Files
from cortex_neuron.fetch import download
from cortex_neuron.fetch.options import INTERRUPTED, LACKING, THERE, UNUSABLE
from cortex_neuron.fetch.report import Outcome, Report, State
from cortex_neuron.residency import sources
from cortex_neuron.residency.sources import SourceMissing, SourceUnreachable

_MB = 2**20


class OrderInvalid(Exception):
    """What is asked for cannot be; the message says what."""


def run(options: argparse.Namespace, config: str, models_path: str) -> int:
    """Fetch and say so. The files are a neuron.toml and a models.toml."""
    try:
        told = Files(config, models_path).read()
        models = _chosen(told.models, options.names, options.all)
    except (ConfigInvalid, OrderInvalid) as invalid:
        sys.stderr.write(f"{invalid}\n")
        return UNUSABLE
    # Before the hub's library is first used: it reads them then.
    os.environ.update(told.settings.environment)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    if options.dry_run:
        os.environ["HF_HUB_OFFLINE"] = "1"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(models, options.dry_run, options.json)
    except KeyboardInterrupt:
        download.remove_partial_files()
        sys.stdout.flush()
        os._exit(INTERRUPTED)  # threads of the library would be waited for until their files are whole


def _chosen(catalogue: Sequence[Model], names: Sequence[str], everything: bool) -> list[Model]:
    """The models that are meant, each once. Raises OrderInvalid."""
    if bool(names) == everything:
        raise OrderInvalid("name the models to fetch, or say --all")
    if everything:
        return list(catalogue)
    known = {name: model for model in catalogue for name in (model.id, *model.aliases)}
    unknown = [name for name in names if name not in known]
    if unknown:
        there = ", ".join(sorted(known)) or "none"
        raise OrderInvalid(f"no such model: {', '.join(unknown)}; there is: {there}")
    return list({known[name].id: known[name] for name in names}.values())


def _run(models: Sequence[Model], dry_run: bool, as_json: bool) -> int:
    outcomes = []
    for model in models:
        outcomes.append(_outcome(model, dry_run, as_json))
        if not as_json:
            _print(outcomes[-1].line())
    report = Report(models=outcomes)
    _print(report.model_dump_json(indent=2) if as_json else report.summary())
    return THERE if report.complete else LACKING


def _outcome(model: Model, dry_run: bool, quiet: bool) -> Outcome:
    """Of all its sources: what is not here of one is not here of the model."""
    found = [_came_to(model, source, dry_run, quiet) for source in model.sources]
    lacking = next((outcome for outcome in found if not outcome.here), None)
    fetched = any(outcome.state is State.FETCHED for outcome in found)
    return lacking or (found[0].model_copy(update={"state": State.FETCHED}) if fetched else found[0])


def _came_to(model: Model, source: str, dry_run: bool, quiet: bool) -> Outcome:
    local = sources.is_local(source)

    def came_to(state: State, **more: str) -> Outcome:
        return Outcome(model=model.id, source=source, local=local, state=state, **more)

    def tell(stored: int) -> None:
        if not quiet:
            _print(f"{model.id}: fetching {source}: {stored // _MB} MB are here")

    try:
        path = sources.find(source)
        if path is not None:
            return came_to(State.PRESENT, path=str(path))
        if dry_run:
            return came_to(State.MISSING, reason=f"source {source!r}: {sources.absence(source)}")
        return came_to(State.FETCHED, path=str(download.run(source, tell)))
    except (SourceMissing, SourceUnreachable, ValueError) as failure:
        return came_to(State.MISSING if dry_run else State.FAILED, reason=str(failure))


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
