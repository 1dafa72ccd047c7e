"""Where a gateway is asked."""

from __future__ import annotations

from typing import Any

import pytest

from cortex_contracts.inventory.fleet import GatewayHost
from cortex_status.fleet_status.addresses import catalogue_key, gateway_url


@pytest.mark.parametrize(
    ("listen", "address", "url"),
    [
        ("0.0.0.0:31313", "10.0.0.5", "http://10.0.0.5:31313"),
        ("[::]:31313", "gw.example", "http://gw.example:31313"),
        ("[::]:31313", "fd00::5", "http://[fd00::5]:31313"),
        ("0.0.0.0:31313", "127.0.0.1", "http://127.0.0.1:31313"),
        ("192.168.7.2:80", "10.0.0.5", "http://192.168.7.2:80"),
        ("[fd00::9]:80", "10.0.0.5", "http://[fd00::9]:80"),
        ("gw.example:80", "10.0.0.5", "http://gw.example:80"),
    ],
)
def test_a_gateway_is_asked_where_it_listens_and_at_its_host_when_it_listens_everywhere(
    listen: str, address: str, url: str
) -> None:
    """No URL of ours holds a wildcard, and IPv6 addresses are in brackets."""
    assert gateway_url(GatewayHost(name="gw", address=address, listen=listen)) == url


@pytest.mark.parametrize("listen", ["127.0.0.1:31313", "localhost:31313", "[::1]:31313"])
def test_a_remote_gateway_on_loopback_is_not_confused_with_one_of_this_machine(listen: str) -> None:
    """Asking 127.0.0.1 for a remote host would show whatever runs here under its name."""
    assert gateway_url(GatewayHost(name="gw", address="10.0.0.5", listen=listen)) == "http://10.0.0.5:31313"


def test_a_gateway_of_this_machine_is_asked_at_the_loopback_address_it_listens_on() -> None:
    """A gateway on ::1 alone would refuse 127.0.0.1."""
    assert gateway_url(GatewayHost(name="gw", address="127.0.0.1", listen="[::1]:80")) == "http://[::1]:80"


@pytest.mark.parametrize(
    ("variables", "key"),
    [
        ({}, None),
        ({"admin_key": "an-admin-key-0123"}, "an-admin-key-0123"),
        ({"admin_key": f"sha256:{'0' * 64}"}, None),
        (
            {
                "api_keys": [
                    {"name": "few", "key": "a-key-for-one-model", "models": ["m"]},
                    {"name": "digest", "key": f"sha256:{'1' * 64}"},
                    {"name": "all", "key": "a-key-for-all-models"},
                ]
            },
            "a-key-for-all-models",
        ),
    ],
)
def test_the_catalogue_is_asked_for_with_a_key_that_may_see_all_of_it(
    variables: dict[str, Any], key: str | None
) -> None:
    """Else every model that the key may not use would look as if it were missing."""
    assert catalogue_key(GatewayHost(name="gw", address="127.0.0.1", **variables)) == key
