"""Whether a service traces its requests: only where it is told an endpoint; else nothing of OpenTelemetry is imported.

Owns: that choice, and what is said where the extra is missing. Does not own: spans (spans.py). A service without a
tracer has None in its place, and a request then costs the look at it. Called by: each service, at start.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from cortex_contracts.inventory.files import ConfigInvalid

if TYPE_CHECKING:
    from cortex_serving.spans import Tracer

_NEEDED = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.exporter.otlp")


def check(endpoint: str, key: str) -> None:
    """Raises ConfigInvalid where traces are to go somewhere and what sends them is not installed."""
    if endpoint and not all(map(_is_there, _NEEDED)):
        raise ConfigInvalid([f"{key}: it is {endpoint!r}: traces need the extra `otel`: pip install 'cortex[otel]'"])


def start(endpoint: str, service: str, instance: str) -> Tracer | None:
    """What makes spans and sends them to `endpoint`, or None where that is empty."""
    if not endpoint:
        return None
    from cortex_serving.spans import Tracer

    return Tracer(endpoint, service, instance)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it is not there
        return False
