"""What can be wrong with a fleet, as names that scripts may rely on.

Owns: the kinds and the shape of a finding. Does not own: how one is found (drift).
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from cortex_status.fleet_status.observed import Shown


class FindingKind(StrEnum):
    """A difference between declared and running, or something unhealthy."""

    HOST_UNREACHABLE = "host_unreachable"  # a declared gateway or neuron does not answer
    BAD_ANSWER = "bad_answer"  # something answers there, but not everything, or not as the contract says
    VERSION_DIFFERS = "version_differs"  # not all hosts run the same version
    RELEASE_DIFFERS = "release_differs"  # not all hosts were started from the same release
    AWAITS_RESTART = "awaits_restart"  # a gateway has read settings that only a restart takes up
    HOST_UNHEALTHY = "host_unhealthy"  # it is stopping, or calls itself something else than well
    DRIVER_PROBLEM = "driver_problem"
    DEVICES_MISSING = "devices_missing"  # fewer devices than the inventory gives the host
    DRAINED = "drained"  # drained, though not declared so
    NOT_DRAINED = "not_drained"  # declared drained, yet it serves
    MODEL_UNDECLARED = "model_undeclared"  # on a host, or in a gateway's catalogue
    MODEL_UNKNOWN = "model_unknown"  # declared, but a gateway does not list it
    MODEL_NOT_LOADED = "model_not_loaded"  # though it is to be preloaded or is pinned there
    MODEL_FAILED = "model_failed"
    MODEL_RECOVERING = "model_recovering"
    HARNESS_DIFFERS = "harness_differs"
    CONTEXT_DIFFERS = "context_differs"
    TENSOR_PARALLEL_DIFFERS = "tensor_parallel_differs"
    NEURON_UNKNOWN = "neuron_unknown"  # declared, but a gateway does not know it
    NEURON_UNDECLARED = "neuron_undeclared"  # a gateway knows it, the inventory does not
    NEURON_ADDRESS_DIFFERS = "neuron_address_differs"  # a gateway asks it at another URL
    NEURON_DISBELIEVED = "neuron_disbelieved"  # it answers us, and a gateway takes it for dead


class Finding(Shown):
    """One thing that is not as declared, in the inventory's words."""

    kind: FindingKind
    host: str | None = Field(description="The host it was seen on; none where it concerns several")
    model: str | None = None
    message: str
