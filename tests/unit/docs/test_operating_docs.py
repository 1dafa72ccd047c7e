"""docs/operating.md and docs/troubleshooting.md against the playbooks, the variables, and the words of the code.

What is told of a role or playbook that this checkout does not have is not judged: its part of the page is.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from pages import ROOT, page, rows

from cortex_contracts.inventory.argument_specs import argument_specs
from cortex_contracts.inventory.clients import KeyEntry
from cortex_contracts.inventory.fleet import Model, Speculative
from cortex_contracts.inventory.roles import ROLES
from cortex_contracts.wire.errors import by_code
from cortex_contracts.wire.neuron import ModelStatus
from cortex_status.fleet_status.findings import FindingKind
from cortex_status.fleet_status.observed import Silence

OPERATING, TROUBLE = page("operating.md"), page("troubleshooting.md")
PLAYBOOKS = sorted(ROOT.glob("ansible/*.yml"))
VARIABLES = {name for role in ROLES for name in argument_specs(role)["argument_specs"]["main"]["options"]}
KINDS = {row[0].strip("`") for row in rows(page("protocol.md"), "Error kinds")}
# Sections of troubleshooting.md that tell what one file says.
OF_FILES = {"Checking hosts": "ansible/check.yml", "Drivers": "ansible/driver.yml"}
OTHER_WORDS = {"max_tokens", "request_id"}  # a client's parameter, a log line's field
SAID_IN = ("services/**/*.py", "roles/**/*.yml", "ansible/**/*.yml", "ansible/**/*.py")


@cache
def sources() -> str:
    """All that is said anywhere, on one line, with strings and folded text joined as their readers get them."""
    text = " ".join(path.read_text() for pattern in SAID_IN for path in ROOT.glob(pattern))
    return " ".join(re.sub(r'"\s*\n?\s*f?"', "", text).split())


def spans(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


def words(text: str) -> set[str]:
    """Names with an underscore that stand in backticks, alone or before what they are given."""
    return {found[1] for span in spans(text) if (found := re.match(r"([a-z]+(?:_[a-z0-9]+)+)(?![\w*…])", span))}


def events() -> set[str]:
    """What log lines are called."""
    return set(re.findall(r'logs\.\w+\(\s*"(\w+)"', sources()))


def options() -> list[tuple[str, str]]:
    """Playbooks and what they take with -e, as the table has them."""
    return [
        (playbook.strip("`"), name.strip("`=")) for playbook, name, _ in rows(OPERATING, "Options of the playbooks")
    ]


def cells() -> list[tuple[str, str]]:
    """The first cells of every table of troubleshooting.md, with their section."""
    sections = [part.partition("\n")[0] for part in TROUBLE.split("\n## ")[1:]]
    return [(section, row[0]) for section in sections for row in rows(TROUBLE, section)]


@pytest.mark.parametrize("folder", sorted(ROOT.glob("roles/*")), ids=lambda path: path.name)
def test_every_role_has_its_section_in_the_reference(folder: Path) -> None:
    """With every option of its argument specs: a role that the schema does not know has none."""
    [role] = [role for role in ROLES if role.name == folder.name]
    reference = page("inventory.md")
    assert f"\n## Role `{role.name}`\n" in reference
    for name in argument_specs(role)["argument_specs"]["main"]["options"]:
        assert f"| `{name}` |" in reference


@pytest.mark.parametrize("playbook", ["site.yml", *(f"ansible/{path.name}" for path in PLAYBOOKS)])
def test_every_playbook_is_told_with_its_command(playbook: str) -> None:
    """So that an operator finds it without reading the folder."""
    assert f"ansible-playbook -i inventory/mine {playbook}" in OPERATING


def test_every_option_of_a_playbook_is_one() -> None:
    """Of the table, in the playbook's own text; and each that a command gives is in the table."""
    table = options()
    for playbook, option in table:
        if (ROOT / playbook).exists():
            assert re.search(rf"\b{option}\b", (ROOT / playbook).read_text()), (playbook, option)
    commands = [line for line in (OPERATING + TROUBLE).splitlines() if "ansible/" in line]
    given = {
        (playbook, option)
        for line in commands
        for playbook, rest in re.findall(r"(ansible/\w+\.yml)([^`#]*)", line)
        for option in re.findall(r"-e (\w+)=", rest)
    }
    assert given <= set(table)


@pytest.mark.parametrize("text", [OPERATING, TROUBLE], ids=["operating", "troubleshooting"])
def test_every_variable_that_is_named_is_one(text: str) -> None:
    """Of a role that is here; what only looks like one would be typed in vain."""
    prefixes = tuple(role.prefix for role in ROLES)
    named = {word for word in words(text) if word.startswith(prefixes)} - set(map(str, FindingKind))
    assert len(named) > 15
    assert named - VARIABLES == set()


@pytest.mark.parametrize("text", [OPERATING, TROUBLE], ids=["operating", "troubleshooting"])
def test_every_other_name_is_a_code_a_finding_a_kind_an_event_or_a_key(text: str) -> None:
    """Each is looked for where it is defined."""
    known = VARIABLES | KINDS | events() | set(Model.model_fields) | set(KeyEntry.model_fields) | OTHER_WORDS
    known |= set(Speculative.model_fields)
    known |= {*map(str, FindingKind), *map(str, ModelStatus), *map(str, Silence), *(option for _, option in options())}
    names = {word for word in words(text) - known if not word.startswith(("ansible_", "nvidia_"))}
    assert {name for name in names if by_code(name) is None} == set()


def test_every_code_that_a_client_may_meet_in_an_hour_of_need_is_told() -> None:
    """The 503s, which are the operator's to mend."""
    operators_own = {code for code, status, *_ in rows(page("api.md"), "Errors") if status == "503"}
    untold = {"`unavailable`", "`shutting_down`"}  # a moment's, with nothing to do
    assert {code for code in operators_own - untold if code not in TROUBLE} == set()


@pytest.mark.parametrize(("section", "cell"), cells())
def test_every_message_of_ours_is_said_somewhere(section: str, cell: str) -> None:
    """Word for word, but for what differs."""
    if section in OF_FILES and not (ROOT / OF_FILES[section]).exists():
        pytest.skip(f"{OF_FILES[section]} is not here")
    for message in (span for span in spans(cell) if " " in span):
        fragments = [part.strip(" :") for part in re.split(r"…|\b[A-Z]{4,}\b|\b13131\b", message)]
        assert [part for part in fragments if len(part) > 3 and part not in sources()] == []


def test_there_is_much_to_look_up() -> None:
    """A table that does not parse would be judged by nothing."""
    assert len(cells()) > 70
