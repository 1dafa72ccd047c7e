"""Where foreign engines are served, as their neurons have said.

Owns: remembering that for as long as a model stays loaded, so that a request is one request. Called by: attempts.py.
"""

from __future__ import annotations

from cortex_gateway.fleet.client import NeuronClient
from cortex_gateway.fleet.snapshot import NeuronView


class Endpoints:
    """Base URLs by neuron and model."""

    def __init__(self, client: NeuronClient) -> None:
        self._client = client
        self._known: dict[tuple[str, str], tuple[int, str]] = {}  # with the number of the load that it is of

    async def of(self, neuron: NeuronView, model_id: str) -> str:
        """Where to ask for a model that is loaded there. Raises NeuronRefused, NeuronUnreachable."""
        seat, load = (neuron.url, model_id), neuron.models[model_id].loads
        known = self._known.get(seat)
        if known is None or known[0] != load:
            known = self._known[seat] = (load, await self._client.endpoint(neuron.url, model_id))
        return known[1]

    def forget(self, neuron: NeuronView, model_id: str) -> None:
        """What was known may be so no more: who was asked there did not answer, or said no."""
        self._known.pop((neuron.url, model_id), None)
