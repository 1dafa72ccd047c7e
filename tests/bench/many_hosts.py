"""A fleet of many hosts on this machine: its inventory, and one process that answers as every host of it.

    python -m tests.bench.many_hosts COUNT PORT

Says "ready" once each neuron listens at PORT on a loopback address of its own, and the gateway beside them; serves
until killed. All is as the inventory declares it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from cortex_contracts.wire.gateway import (
    GatewayHealth,
    GatewayVersion,
    Location,
    ModelCatalogue,
    ModelEntry,
    NeuronSeen,
)
from cortex_contracts.wire.neuron import (
    Activation,
    DeviceHealth,
    DeviceSpec,
    Discovery,
    Health,
    ModelHealth,
    ModelRow,
    ModelStatus,
    NeuronState,
    VersionAnswer,
)

MODELS, DEVICES = 60, 2
GATEWAY = "entrance"
_GATEWAY_ADDRESS = "127.200.255.254"
_VERSION = "0.1.0"
_CARD = "NVIDIA RTX 5090"


def name(number: int) -> str:
    return f"gpu{number:03}"


def address(number: int) -> str:
    return f"127.200.{number // 250}.{1 + number % 250}"


def write_inventory(folder: Path, count: int, port: int, bin_dir: Path) -> Path:
    """As an operator with so many hosts has it: variables of groups and of each host, templates, a long catalogue."""
    (folder / "inventory/group_vars").mkdir(parents=True)
    (folder / "inventory/host_vars").mkdir()
    everywhere = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "cortex_service_manager": "none",
        "cortex_bin_dir": str(bin_dir),
        "cortex_prefix": f"{folder}/hosts/{{{{ inventory_hostname }}}}",
        "model_folder": "/srv/models",
        "cortex_models": [_declared(number, count) for number in range(MODELS)],
    }
    neurons = {
        "base_port": port - 1,
        "neuron_port": "{{ base_port + 1 }}",
        "neuron_environment": {"HF_HOME": "{{ model_folder }}/hub"},
    }
    gateway = {"gateway_listen": f"{_GATEWAY_ADDRESS}:{port}"}
    hosts = {
        "gateway": {"hosts": {GATEWAY: {"ansible_host": _GATEWAY_ADDRESS}}},
        "neurons": {"hosts": {name(number): {"ansible_host": address(number)} for number in range(count)}},
    }
    files: dict[str, Any] = {"hosts": hosts, "group_vars/all": everywhere, "group_vars/neurons": neurons}
    files |= {"group_vars/gateway": gateway}
    files |= {f"host_vars/{name(number)}": {"neuron_devices": [*range(DEVICES)]} for number in range(count)}
    for path, content in files.items():
        (folder / f"inventory/{path}.yml").write_text(json.dumps(content))  # JSON is YAML
    return folder / "inventory"


def _declared(number: int, count: int) -> dict[str, Any]:
    places = [name(host) for host in range(count) if host % MODELS == number]
    return {
        "id": f"maker/model-{number}",
        "source": f"{{{{ model_folder }}}}/model-{number}",
        "vram_mb": 9000,
        "aliases": [f"model-{number}"],
        "capabilities": ["chat", "tools"],
        "preload_on": places,
    }


def _neuron(number: int) -> dict[str, BaseModel | list[BaseModel]]:
    """What a neuron says at each path: one model loaded, the others declared."""
    loaded = f"maker/model-{number % MODELS}"
    devices = [
        DeviceHealth(index=index, vram_used_mb=9000, vram_free_mb=23768, utilization_pct=3, temp_c=41)
        for index in range(DEVICES)
    ]
    cards = [
        DeviceSpec(index=index, name=_CARD, vram_total_mb=32768, compute_capability="12.0") for index in range(DEVICES)
    ]
    statuses = {f"maker/model-{other}": ModelStatus.UNLOADED for other in range(MODELS)} | {loaded: ModelStatus.LOADED}
    return {
        "/health": Health(
            state=NeuronState.READY,
            uptime_secs=86400.5,
            activation=Activation(wanted=[loaded], loaded=[loaded]),
            devices=devices,
            models=[ModelHealth(id=model, status=status) for model, status in statuses.items()],
            version=_VERSION,
        ),
        "/models": [
            ModelRow(id=model, harness="torch", status=status, devices=[0] if status is ModelStatus.LOADED else [])
            for model, status in statuses.items()
        ],
        "/discovery": Discovery(
            hostname=name(number), os="Debian 13", kernel="6.12.0", cuda_version="13.0", driver_version="580.95",
            device_kind="cuda", devices=cards, harnesses=["torch"], version=_VERSION,
        ),
        "/version": VersionAnswer(version=_VERSION, protocol=1),
    }  # fmt: skip


def _gateway(count: int, port: int) -> dict[str, BaseModel | list[BaseModel]]:
    """A gateway that believes what the neurons say."""
    neurons = [
        NeuronSeen(
            name=name(number), url=f"http://{address(number)}:{port}", healthy=True, state=NeuronState.READY, strikes=0,
            models=[f"maker/model-{number % MODELS}"], version=_VERSION,
        )
        for number in range(count)
    ]  # fmt: skip
    entries = [
        ModelEntry(
            id=f"maker/model-{model}", created=1, status=ModelStatus.LOADED, aliases=[], context=None, harness="torch",
            locations=[
                Location(neuron=name(host), status=ModelStatus.LOADED, in_flight=0)
                for host in range(count) if host % MODELS == model
            ],
            capabilities=["chat"],
        )
        for model in range(MODELS)
    ]  # fmt: skip
    health = GatewayHealth(status="ok", uptime_secs=86400.5, version=_VERSION, in_flight=0, neurons=neurons)
    version = GatewayVersion(version=_VERSION, release=None, files={}, awaits_restart=[])
    return {"/health": health, "/v1/models": ModelCatalogue(data=entries), "/version": version}


def _bodies(answers: dict[str, BaseModel | list[BaseModel]]) -> dict[str, bytes]:
    def body(answer: BaseModel | list[BaseModel]) -> bytes:
        if isinstance(answer, list):
            return b"[" + b",".join(item.model_dump_json().encode() for item in answer) + b"]"
        return answer.model_dump_json().encode()

    return {path: body(answer) for path, answer in answers.items()}


async def serve(count: int, port: int) -> None:
    """Serve until killed."""
    hosts = {address(number): _bodies(_neuron(number)) for number in range(count)}
    hosts[_GATEWAY_ADDRESS] = _bodies(_gateway(count, port))

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        body = hosts[request.transport.get_extra_info("sockname")[0]].get(request.path)
        return web.Response(body=body, content_type="application/json", status=404 if body is None else 200)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    for host in hosts:
        await web.TCPSite(runner, host, port).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
