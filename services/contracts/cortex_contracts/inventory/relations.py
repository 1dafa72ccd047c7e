"""What must hold between the declared hosts and models: each breach is a line in the inventory's words.

Owns: the relations. Does not own: the values themselves (fleet.py), what a host really has (the neuron's discovery).
Called by: problems.py, also with stand-ins for values that are faulty by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cortex_contracts.inventory.clients import MOST_KEYS, NO_KEY, OPERATOR, digest_of
from cortex_contracts.inventory.deployment import Deployment
from cortex_contracts.inventory.fleet import Fleet, Gateway, GatewayHost, Model, NeuronHost, Speculative
from cortex_contracts.inventory.reading import suggestion

WILDCARDS = frozenset({"0.0.0.0", "[::]", "::", "*"})  # noqa: S104  compared with, not bound
SOCKET_PATH_LIMIT = 107  # bytes of a Unix socket's path on Linux, less the closing NUL
LONGEST_SOCKET = "/run/neuron/g9999.ipc"


def breaches(fleet: Fleet) -> Iterator[str]:
    """Every relation of the fleet that does not hold."""
    yield from _addresses(fleet.neurons)
    yield from _entrances(fleet.gateways)
    for gateway in fleet.gateways:
        yield from _ports(gateway, {neuron.name: neuron for neuron in fleet.neurons}.get(gateway.name))
    for neuron in fleet.neurons:
        if neuron.devices not in ("all", "cpu") and len(set(neuron.devices)) < len(neuron.devices):
            yield f"host {neuron.name}: neuron_devices: names a device twice: {list(neuron.devices)}"
    yield from _names(fleet.models)
    ids = {model.id: model.source for model in fleet.models}
    for model in fleet.models:
        yield from _of_vllm(model, fleet.neurons)
        yield from _of_task(model)
        yield from _drafts(model, ids)
        yield from _hosts(model, fleet.neurons)
        yield from _devices(model, fleet.neurons)


def prefix_faults(deployment: Deployment) -> Iterator[str]:
    """Why the files of this host cannot go under its prefix."""
    excess = len(deployment.prefix.encode()) + len(LONGEST_SOCKET) - SOCKET_PATH_LIMIT
    if excess > 0:
        yield f"cortex_prefix: should be {excess} bytes shorter for the sockets below it, is {deployment.prefix!r}"
    if deployment.prefix and deployment.service_manager == "systemd":
        yield (
            "cortex_prefix: should be empty under cortex_service_manager systemd, which reads its units and makes its "
            f"folders under the root, is {deployment.prefix!r}"
        )


def key_faults(gateway: Gateway, models: tuple[Model, ...]) -> Iterator[str]:
    """What is wrong between the keys of a gateway, and between them and the catalogue; never with a key in it."""
    if len(gateway.api_keys) > MOST_KEYS:
        yield f"gateway_api_keys: should be {MOST_KEYS} entries at most, is {len(gateway.api_keys)}"
    names: set[str] = set()
    owners = {digest_of(gateway.admin_key): "gateway_admin_key"} if gateway.admin_key is not None else {}
    for key in gateway.api_keys:
        if key.name in names:
            yield f"gateway_api_keys: {key.name}: name: is there twice"
        if key.name == NO_KEY:
            yield f"gateway_api_keys: {key.name}: name: is what requests without a key go by"
        if key.name == OPERATOR:
            yield f"gateway_api_keys: {key.name}: name: is what requests with gateway_admin_key go by"
        names.add(key.name)
        owner = owners.setdefault(digest_of(key.key), key.name)
        if owner != key.name:
            yield f"gateway_api_keys: {key.name}: key: is also that of {owner}"
    known = [name for model in models for name in (model.id, *model.aliases)]
    lists = [(f"gateway_api_keys: {key.name}", key.models) for key in gateway.api_keys]
    for place, allowed in [*lists, ("gateway_anonymous_allowance", gateway.anonymous_allowance.models)]:
        for name in allowed:
            if name not in known:
                yield f"{place}: models: {name!r} is no model of cortex_models{suggestion(name, known)}"


def _addresses(neurons: tuple[NeuronHost, ...]) -> Iterator[str]:
    taken: dict[str, str] = {}
    for neuron in neurons:
        first = taken.setdefault(neuron.url, neuron.name)
        if first != neuron.name:
            yield f"host {neuron.name}: has the address of host {first}: {neuron.url} (ansible_host, neuron_port)"


def _entrances(gateways: tuple[GatewayHost, ...]) -> Iterator[str]:
    """Two gateways of one host at one port, by two names of it."""
    for number, gateway in enumerate(gateways):
        for other in gateways[:number]:
            if gateway.address == other.address and _collide(gateway.listen, other.listen):
                place = f"{gateway.address}, {gateway.listen} (ansible_host, gateway_listen)"
                yield f"host {gateway.name}: has the address of host {other.name}: {place}"
                break


def _ports(gateway: GatewayHost, neuron: NeuronHost | None) -> Iterator[str]:
    """Two listeners of one host on one port."""
    listeners = {"gateway_listen": gateway.listen, "gateway_metrics_listen": gateway.metrics_listen}
    if neuron is not None:
        listeners["neuron_port"] = f"{neuron.bind}:{neuron.port}"
    taken: dict[str, str] = {}
    for variable, listen in listeners.items():
        for other, its_listen in taken.items():
            if _collide(listen, its_listen):
                yield f"host {gateway.name}: {variable}: {listen} is also that of {other}: {its_listen}"
        taken[variable] = listen


def _collide(one: str, other: str) -> bool:
    one_host, _, one_port = one.rpartition(":")
    other_host, _, other_port = other.rpartition(":")
    return one_port == other_port and (one_host == other_host or not WILDCARDS.isdisjoint({one_host, other_host}))


def _names(models: tuple[Model, ...]) -> Iterator[str]:
    """Ids and aliases are one space of names, each used once."""
    ids: set[str] = set()
    for model in models:
        if model.id in ids:
            yield f"cortex_models: {model.id}: id: is there twice"
        ids.add(model.id)
    owners: dict[str, str] = {}
    for model in models:
        for alias in model.aliases:
            if alias in ids:
                whose = "its own id" if alias == model.id else "the id of another model"
                yield f"cortex_models: {model.id}: aliases: {alias!r} is {whose}"
            elif alias in owners:
                yield f"cortex_models: {model.id}: aliases: {alias!r} is also an alias of {owners[alias]}"
            owners.setdefault(alias, model.id)


def _hosts(model: Model, neurons: tuple[NeuronHost, ...]) -> Iterator[str]:
    names = [neuron.name for neuron in neurons]
    for key in ("pinned_on", "preload_on"):
        for name in getattr(model, key):
            if name not in names:
                hint = suggestion(name, names)
                yield f"cortex_models: {model.id}: {key}: {name!r} is no host of the group neurons{hint}"


def _of_vllm(model: Model, neurons: tuple[NeuronHost, ...]) -> Iterator[str]:
    """What only vLLM can do, and what that needs."""
    place = f"cortex_models: {model.id}"
    for key in ("pipeline_parallel", "ray_hosts", "engine_args"):
        if model.harness != "vllm" and getattr(model, key) != Model.model_fields[key].default:
            yield f"{place}: {key}: is for harness vllm, and harness is {model.harness!r}"
    devices = model.tensor_parallel * model.pipeline_parallel
    if devices % model.ray_hosts:
        yield f"{place}: ray_hosts: is {model.ray_hosts}, over which its {devices} devices cannot be shared evenly"
    if model.harness == "vllm" and neurons and not any(neuron.vllm_bin for neuron in neurons):
        yield f"{place}: harness: is 'vllm', but no host has a neuron_vllm_bin"
    if model.ray_hosts > 1 and neurons and not any(neuron.vllm_ray_address for neuron in neurons):
        yield f"{place}: ray_hosts: is {model.ray_hosts}, but no host has a neuron_vllm_ray_address"


def _of_task(model: Model) -> Iterator[str]:
    """What only an engine of our own does, whole and with the weights as they are."""
    place = f"cortex_models: {model.id}"
    if model.harness != "torch" and model.task not in ("auto", "generate"):
        yield f"{place}: task: {model.task} is for harness torch, and harness is {model.harness!r}"
    elif model.task in ("embed", "rerank"):
        for key in ("tensor_parallel", "quant", "kv_cache_dtype", "speculative"):
            if (value := getattr(model, key)) != Model.model_fields[key].default:
                yield f"{place}: {key}: is {value!r}, which is not for a model with task {model.task}"


def _drafts(model: Model, ids: Mapping[str, str]) -> Iterator[str]:
    """What a method needs, and what it has no use for; a range of lengths that has none in it. `ids` with sources."""
    drafts = model.speculative
    if drafts is None:
        return
    place = f"cortex_models: {model.id}: speculative"
    if drafts.method == "draft_model":
        if drafts.model is None:
            yield f"{place}.model: is missing, which method draft_model needs"
        elif drafts.model in ids and drafts.model not in ids.values():
            yield f"{place}.model: should be a source, is the id of one with source {ids[drafts.model]!r}"
        for key in ("prompt_lookup_max", "prompt_lookup_min"):
            if getattr(drafts, key) != Speculative.model_fields[key].default:
                yield f"{place}.{key}: is for method ngram, and method is {drafts.method!r}"
        return
    if drafts.model is not None:
        yield f"{place}.model: is for method draft_model, and method is {drafts.method!r}"
    if drafts.prompt_lookup_min > drafts.prompt_lookup_max:
        yield (
            f"{place}.prompt_lookup_min: is {drafts.prompt_lookup_min}, "
            f"more than prompt_lookup_max, {drafts.prompt_lookup_max}"
        )


def _devices(model: Model, neurons: tuple[NeuronHost, ...]) -> Iterator[str]:
    """As far as the inventory knows: a host with `all` may have any number of devices."""
    place = f"cortex_models: {model.id}"
    split = -(-model.tensor_parallel * model.pipeline_parallel // model.ray_hosts)
    if "min_devices" in model.model_fields_set and model.min_devices != split:
        yield f"{place}: min_devices: is {model.min_devices}, but {_key(model)} splits it over {split}"
    counts = {neuron.name: len(neuron.devices) for neuron in neurons if neuron.devices not in ("all", "cpu")}
    for name in dict.fromkeys(model.pinned_on + model.preload_on):
        if counts.get(name, split) < split:
            yield f"{place}: {_key(model)}: is {split}, but host {name} has {counts[name]} in neuron_devices"
    if neurons and len(counts) == len(neurons) and max(counts.values()) < split:
        yield f"{place}: {_key(model)}: is {split}, but no host has more than {max(counts.values())} in neuron_devices"


def spread(model: Model) -> str:
    """In the inventory's words: over how many devices of a host."""
    return f"{_key(model)}: {model.span}"


def _key(model: Model) -> str:
    """The key that says so, or the calculation."""
    if model.pipeline_parallel == model.ray_hosts == 1:
        return "tensor_parallel"
    key = "tensor_parallel * pipeline_parallel"
    return key if model.ray_hosts == 1 else f"{key} / ray_hosts"
