from __future__ import annotations

import subprocess
import sys

from modelium.devices import detect
from modelium.devices.nvml import NvmlInventory
from tests.fakes.nvml import (
    GIB,
    GPU_IS_LOST,
    VERSION_MISMATCH,
    FakeGpu,
    FakeNvml,
    fake_nvml,
    nvml_library,
)

__all__ = ["fake_nvml", "nvml_library"]


def test_gpus_are_keyed_by_node_and_uuid_with_the_memory_cuda_sees(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", reserved=GIB, used=10 * GIB, utilization=37))
    fake_nvml.add(FakeGpu(uuid="GPU-b", name="NVIDIA L4", total=24 * GIB))

    first, second = detect("node-1").snapshot()

    assert (first.id, first.label, first.kind) == ("node-1/GPU-a", "0", "gpu")
    assert first.total_bytes == 79 * GIB
    assert first.free_bytes == 69 * GIB
    assert first.utilization == 0.37
    assert (second.id, second.index, second.name) == ("node-1/GPU-b", 1, "NVIDIA L4")
    assert second.healthy


def test_processes_that_hold_memory_are_listed_until_they_die(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    inventory = detect("n")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as holder:
        fake_nvml.occupy("GPU-a", holder.pid, 3 * GIB)
        (held,) = inventory.snapshot()
        holder.kill()
    (after,) = inventory.snapshot()

    assert [(p.pid, p.used_bytes) for p in held.processes] == [(holder.pid, 3 * GIB)]
    assert held.free_bytes == 77 * GIB
    assert after.processes == ()
    assert after.free_bytes == 80 * GIB


def test_a_lost_gpu_is_unhealthy_and_comes_back_by_itself(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    fake_nvml.add(FakeGpu(uuid="GPU-b"))
    inventory = detect("n")
    inventory.snapshot()

    fake_nvml.change("GPU-a", error=GPU_IS_LOST)
    lost, other = inventory.snapshot()
    assert (lost.id, lost.healthy, lost.free_bytes) == ("n/GPU-a", False, 0)
    assert lost.total_bytes == 80 * GIB
    assert "GPU is lost" in lost.detail
    assert other.healthy

    fake_nvml.change("GPU-a", error=0)
    assert all(device.healthy for device in inventory.snapshot())


def test_a_gpu_that_drops_off_the_bus_stays_known(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    fake_nvml.add(FakeGpu(uuid="GPU-b"))
    inventory = detect("n")
    inventory.snapshot()
    fake_nvml.remove("GPU-a")

    by_uuid = {device.uuid: device for device in inventory.snapshot()}

    assert not by_uuid["GPU-a"].healthy
    assert by_uuid["GPU-b"].healthy
    assert by_uuid["GPU-b"].index == 0


def test_a_gpu_that_was_never_readable_is_shown_unhealthy(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", error=GPU_IS_LOST))
    (device,) = detect("n").snapshot()
    assert (device.uuid, device.healthy, device.total_bytes) == ("index-0", False, 0)


def test_all_gpus_are_unhealthy_while_the_driver_is_down(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    inventory = detect("n")
    inventory.snapshot()
    fake_nvml.fail_init(VERSION_MISMATCH)
    (device,) = inventory.snapshot()
    assert not device.healthy
    assert device.detail


def test_a_partitioned_gpu_is_refused_with_the_reason(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", mig=1))
    (device,) = detect("n").snapshot()
    assert not device.healthy
    assert "MIG" in device.detail


def test_utilization_is_unknown_where_the_driver_does_not_tell(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", utilization=999))
    assert detect("n").snapshot()[0].utilization is None


def test_snapshots_are_anew_each_time(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    inventory = NvmlInventory(node="n")
    before = inventory.snapshot()[0].free_bytes
    fake_nvml.change("GPU-a", used=GIB)
    assert before - inventory.snapshot()[0].free_bytes == GIB
