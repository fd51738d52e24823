"""A device that cannot be used shows in `modelium ls` until it can be."""

from __future__ import annotations

from modelium.control.operations import Operations
from modelium.models import GIB, Device
from modelium.stages.monitor import monitor
from tests.modelium.conftest import World

GPU = Device(node="here", uuid="GPU-a", kind="gpu", total_bytes=8 * GIB, free_bytes=8 * GIB)


async def test_a_sick_device_is_a_notice_until_it_is_well(world: World) -> None:
    operations = Operations(services=world.services)
    cpu = world.devices.devices
    world.devices.devices = (GPU.lost("NVML does not answer"), *cpu)
    await monitor(world.services)
    assert (await operations.status())["notices"] == ["device 0 is not used: NVML does not answer"]
    world.devices.devices = (GPU, *cpu)
    await monitor(world.services)
    assert operations.notices() == []
