"""docs/commands.md, by which operators type, against the parser that reads them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping

from pages import page, rows

from cortex_gateway.records.decisions import KEPT
from cortex_neuron.doctor import options as doctor_options
from cortex_neuron.fetch import options as fetch_options
from cortex_neuron.fetch.report import Outcome, State
from cortex_status.cli import _parser
from cortex_status.operate.commands import COMMANDS
from cortex_status.operate.options import EXITS

TEXT = page("commands.md")


def parsers() -> Mapping[str, argparse.ArgumentParser]:
    (commands,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: parser for name, parser in commands.choices.items() if name in COMMANDS}


def test_every_command_stands_at_the_top_with_its_own_arguments() -> None:
    """In the order of the help."""
    head = [line.split() for line in TEXT.split("\n## ")[0].splitlines() if line.startswith("    cortex ")]
    assert [line[1] for line in head] == [*parsers(), "doctor"]


def test_every_option_has_its_row_and_every_row_its_option() -> None:
    """With the commands that take it."""
    told = {
        name.strip("` "): set(COMMANDS) if of == "all" else set(of.split(", "))
        for names, of, _ in rows(TEXT, "Options")
        for name in names.split(",")
    }
    taken: dict[str, set[str]] = {}
    for command, parser in parsers().items():
        for action in parser._actions:
            for name in action.option_strings if action.dest != "help" else ():
                taken.setdefault(name, set()).add(command)
    assert told == taken


def test_the_exit_codes_are_those_of_the_help() -> None:
    """And each has its row."""
    codes = [line.split()[0] for line in EXITS.splitlines() if line.startswith("  ")]
    assert [code for code, _ in rows(TEXT, "Exit codes")] == codes


def test_the_doctors_options_and_exit_codes_are_those_of_its_help() -> None:
    """It asks no gateway, so none of the others' is its."""
    commands = argparse.ArgumentParser().add_subparsers()
    doctor_options.add_to(commands)
    (doctor,) = commands.choices.values()
    taken = [name for action in doctor._actions if action.dest != "help" for name in action.option_strings]
    assert [name.strip("`") for name, _ in rows(TEXT, "Doctor")] == taken
    codes = [line.split()[0] for line in doctor_options.EXITS.splitlines() if line.startswith("  ")]
    (told,) = [line for line in TEXT.splitlines() if line.startswith("It exits with ")]
    assert re.findall(r"\d+", told) == codes


def test_the_arguments_and_exit_codes_of_fetch_are_those_of_its_help() -> None:
    """And so are the states of its document."""
    commands = argparse.ArgumentParser().add_subparsers()
    fetch_options.add_to(commands)
    (fetch,) = commands.choices.values()
    taken = [name for action in fetch._actions if action.dest != "help" for name in action.option_strings or ["MODEL"]]
    told = {name.strip("`"): text for name, text in rows(TEXT, "Fetch")}
    assert list(told) == taken
    codes = [line.split()[0] for line in fetch_options.EXITS.splitlines() if line.startswith("  ")]
    (words,) = re.findall(r"^Fetch exits with .*?\n\n", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"\b\d+\b", words) == codes
    assert set(re.findall(r"`(\w+)`", told["--json"])) == {"models", *Outcome.model_fields, *State}


def test_how_many_decisions_are_kept_is_told_as_it_is() -> None:
    """For who looks for yesterday's."""
    assert f"its last {KEPT} forwards" in TEXT
    assert f"its last {KEPT} other decisions" in TEXT
