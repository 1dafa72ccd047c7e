"""What hosts share is templated once, and nothing is shared that could differ."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleError

from cortex_contracts.inventory.variables import Unreadable
from cortex_status.shared_values import SharedValues

CATALOGUE = [{"id": "qwen3-8b", "source": "{{ folder }}/qwen3-8b", "vram_mb": 1}]


class Templar:
    """Stands in for ansible-core's: says which host asked for which variable, in the value."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def values(self, shared: SharedValues, host: str, raw: dict[str, Any]) -> dict[str, Any]:
        def template(value: Any) -> str:
            name = next(name for name, of in raw.items() if of is value)
            self.asked.append((host, name))
            return f"{name} of {host}"

        return shared.of({"inventory_hostname": host, **raw}, template)


@pytest.fixture
def templar() -> Templar:
    return Templar()


def test_what_hosts_share_is_templated_once(templar: Templar) -> None:
    """One object in two hosts' variables, as group_vars give it, and what it names is equal for both."""
    shared = SharedValues()
    first, second = (
        templar.values(shared, host, {"cortex_models": CATALOGUE, "folder": "{{ root }}/models", "root": "/srv"})
        for host in ("beast", "benjy")
    )
    assert first == second == {"cortex_models": "cortex_models of beast"}
    assert templar.asked == [("beast", "cortex_models")]


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("{{ inventory_hostname }}", ({}, {})),
        ("{{ a }}", ({"a": "{{ b }}", "b": 1}, {"a": "{{ b }}", "b": 2})),
        ("{{ a.x }}", ({"a": {"x": ["{{ b }}"]}, "b": "1"}, {"a": {"x": ["{{ b }}"]}, "b": 1})),
        ("{{ a is defined }}", ({"a": 1}, {})),
        ("{% if b %}1{% endif %}", ({"b": True}, {"b": 1})),
        ("{{ lookup('vars', 'a' ~ 'b') }}", ({"ab": 1}, {"ab": 2})),
        ("{{ hostvars.gw.a }}", ({}, {})),
        ("{{ a }}", ({"a": "{{ query('file', '/x') }}"}, {"a": "{{ query('file', '/x') }}"})),
    ],
)
def test_what_may_differ_is_each_host_s_own(templar: Templar, text: str, others: tuple[dict[str, Any], ...]) -> None:
    """By whatever the text names, however far away; and by what it could read without naming it."""
    shared = SharedValues()
    values = [
        templar.values(shared, host, {"neuron_bind": text, **other})["neuron_bind"]
        for host, other in zip(("beast", "benjy"), others, strict=True)
    ]
    assert values == ["neuron_bind of beast", "neuron_bind of benjy"]


def test_variables_that_name_each_other_are_no_endless_loop(templar: Templar) -> None:
    """Templating them is an error of ansible-core's; finding what they are made of is not."""
    raw = {"neuron_bind": "{{ a }}", "a": "{{ neuron_bind }}"}
    assert templar.values(SharedValues(), "beast", raw) == {"neuron_bind": "neuron_bind of beast"}


def test_a_value_that_cannot_be_templated_stands_as_its_reason_for_every_host() -> None:
    """The hosts share its line in the report, too; what stands beside it in a list or table is there."""
    shared = SharedValues()

    def fail(value: Any) -> Any:
        if "lab_port" in str(value):
            raise AnsibleError("'lab_port' is undefined")
        return value

    raw = {"neuron_port": "{{ lab_port }}", "neuron_devices": [{"a": "{{ lab_port }}", "b": 1}, 2], "lab": "{{ none }}"}
    reason = Unreadable("'lab_port' is undefined")
    values = [shared.of(raw, fail) for _ in range(2)]
    assert values == [{"neuron_port": reason, "neuron_devices": [{"a": reason, "b": 1}, 2]}] * 2
