from __future__ import annotations

from pathlib import Path

import pytest

from modelium.devices.cpu import CpuInventory
from tests.fakes.nvml import GIB


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
