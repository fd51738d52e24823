from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelium.devices import detect
from modelium.devices.cpu import CpuInventory
from modelium.errors import Unavailable
from tests.fakes.nvml import (
    GIB,
    UNSUPPORTED,
    VERSION_MISMATCH,
    FakeGpu,
    FakeNvml,
    fake_nvml,
    nvml_library,
)

__all__ = ["fake_nvml", "nvml_library"]


def test_a_broken_driver_is_an_error_and_not_a_cpu_host(fake_nvml: FakeNvml) -> None:
    fake_nvml.fail_init(VERSION_MISMATCH)
    with pytest.raises(Unavailable, match="repair the NVIDIA driver"):
        detect("n")


def test_a_driver_without_gpus_offers_the_cpu(fake_nvml: FakeNvml) -> None:
    (device,) = detect("n", cpu_memory_bytes=2 * GIB).snapshot()
    assert (device.id, device.kind, device.total_bytes) == ("n/cpu", "cpu", 2 * GIB)


def test_the_cpu_is_offered_beside_gpus_with_a_small_budget(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    (alone,) = detect("n", cpu=False, environment={}).snapshot()
    gpu, cpu = detect("n", environment={}).snapshot()
    (budgeted,) = detect("n", 2 * GIB, environment={}).snapshot()[1:]

    assert gpu == alone
    assert cpu.id == "n/cpu"
    assert cpu.total_bytes == pytest.approx(CpuInventory(node="n").snapshot()[0].total_bytes / 3)
    assert budgeted.total_bytes == 2 * GIB


def test_unified_memory_is_offered_once(fake_nvml: FakeNvml) -> None:
    unsupported = {
        "nvmlDeviceGetMemoryInfo": UNSUPPORTED,
        "nvmlDeviceGetMemoryInfo_v2": UNSUPPORTED,
    }
    fake_nvml.add(FakeGpu(uuid="GPU-a", failing=unsupported))
    (device,) = detect("n", environment={}).snapshot()
    assert device.kind == "gpu"


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
