from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelium.devices import detect
from modelium.devices.cpu import CpuInventory
from modelium.devices.nvml import NvmlInventory
from modelium.errors import Unavailable
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


def test_a_broken_driver_is_an_error_and_not_a_cpu_host(fake_nvml: FakeNvml) -> None:
    fake_nvml.fail_init(VERSION_MISMATCH)
    with pytest.raises(Unavailable, match="repair the NVIDIA driver"):
        detect("n")


def test_a_driver_without_gpus_offers_the_cpu(fake_nvml: FakeNvml) -> None:
    (device,) = detect("n", cpu_memory_bytes=2 * GIB).snapshot()
    assert (device.id, device.kind, device.total_bytes) == ("n/cpu", "cpu", 2 * GIB)


def test_a_host_without_nvml_offers_the_cpu(tmp_path: Path) -> None:
    # Its own process: this one may have the fake library loaded.
    code = "from modelium.devices import detect; print(detect('n').snapshot()[0].id)"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() in {"n/cpu"}


def cpu_host(root: Path, *, total_kib: int, available_kib: int, cgroup: str) -> CpuInventory:
    (root / "proc/self").mkdir(parents=True)
    (root / "cgroup").mkdir()
    (root / "proc/meminfo").write_text(
        f"MemTotal: {total_kib} kB\nMemAvailable: {available_kib} kB\n"
    )
    (root / "proc/cpuinfo").write_text("processor: 0\nmodel name\t: Example CPU\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    return CpuInventory(node="n", proc=root / "proc", cgroups=root / "cgroup")


def test_the_cpu_offers_three_quarters_of_the_memory(tmp_path: Path) -> None:
    inventory = cpu_host(tmp_path, total_kib=16 * 2**20, available_kib=15 * 2**20, cgroup="0::/\n")
    (device,) = inventory.snapshot()
    assert (device.uuid, device.kind, device.name) == ("cpu", "cpu", "Example CPU")
    assert device.total_bytes == 12 * GIB
    assert device.free_bytes == 12 * GIB
    assert device.utilization is not None
    assert 0 <= device.utilization <= 1


def test_free_memory_of_the_cpu_follows_what_the_machine_has_left(tmp_path: Path) -> None:
    inventory = cpu_host(tmp_path, total_kib=16 * 2**20, available_kib=3 * 2**20, cgroup="0::/\n")
    assert inventory.snapshot()[0].free_bytes == 3 * GIB


@pytest.mark.parametrize(
    ("cgroup", "folder", "limit_file", "usage_file"),
    [
        ("0::/a/b\n", "a", "memory.max", "memory.current"),
        (
            "4:cpu,memory:/a/b\n1:name=systemd:/\n",
            "memory/a/b",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
        ),
    ],
)
def test_the_cpu_respects_the_limit_of_a_cgroup_around_it(
    tmp_path: Path, cgroup: str, folder: str, limit_file: str, usage_file: str
) -> None:
    inventory = cpu_host(tmp_path, total_kib=16 * 2**20, available_kib=15 * 2**20, cgroup=cgroup)
    group = tmp_path / "cgroup" / folder
    group.mkdir(parents=True)
    (group / limit_file).write_text(str(8 * GIB))
    (group / usage_file).write_text(str(5 * GIB))
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {GIB}\n")

    (device,) = inventory.snapshot()

    assert device.total_bytes == 6 * GIB
    assert device.free_bytes == 4 * GIB


def test_snapshots_are_anew_each_time(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    inventory = NvmlInventory(node="n")
    before = inventory.snapshot()[0].free_bytes
    fake_nvml.change("GPU-a", used=GIB)
    assert before - inventory.snapshot()[0].free_bytes == GIB
