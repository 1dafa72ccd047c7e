"""What the driver says, printed as JSON. Run by: probes, as a process of its own."""

from __future__ import annotations

import sys

from cortex_neuron.doctor.facts import DriverFacts, Gpu
from cortex_neuron.hardware.nvml import Driver, read_driver


def of_driver(driver: Driver) -> DriverFacts:
    """What matters here of all that NVML knows."""
    free_mb = {health.index: health.vram_free_mb for health in driver.health}
    return DriverFacts(
        present=driver.present,
        version=driver.version,
        cuda_version=driver.cuda_version,
        problem=driver.problem,
        gpus=tuple(Gpu(index=each.index, name=each.name, free_mb=free_mb[each.index]) for each in driver.devices),
    )


if __name__ == "__main__":
    sys.stdout.write(of_driver(read_driver()).model_dump_json())
