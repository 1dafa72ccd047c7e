"""Where Prometheus is sent: to what it can reach, with the labels that the rules know."""

from __future__ import annotations

import pytest

from cortex_contracts.inventory.fleet import Fleet, GatewayHost, NeuronHost
from cortex_status.scrape_targets import scrape_targets


@pytest.mark.parametrize(
    ("listen", "target"),
    [
        ("0.0.0.0:31314", "192.0.2.10:31314"),
        ("[::]:31314", "192.0.2.10:31314"),
        ("192.0.2.99:1", "192.0.2.99:1"),
        ("127.0.0.1:31314", "192.0.2.10:31314"),
    ],
)
def test_a_gateway_is_asked_where_its_metrics_are(listen: str, target: str) -> None:
    """A wildcard is no address."""
    gateway = GatewayHost(name="gw", address="192.0.2.10", metrics_listen=listen)
    [found] = scrape_targets(Fleet(gateways=(gateway,), neurons=(), models=()))
    assert found == {"targets": [target], "labels": {"job": "cortex-gateway", "host": "gw"}}


def test_a_neuron_is_asked_at_its_port() -> None:
    """An IPv6 address in brackets."""
    neuron = NeuronHost(name="n1", address="2001:db8::1", port=14000)
    [found] = scrape_targets(Fleet(gateways=(), neurons=(neuron,), models=()))
    assert found == {"targets": ["[2001:db8::1]:14000"], "labels": {"job": "cortex-neuron", "host": "n1"}}
