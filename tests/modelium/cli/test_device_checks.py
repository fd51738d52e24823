"""What `modelium doctor` says of the devices, over the real pynvml."""

from __future__ import annotations

import pytest

from modelium.cli.device_checks import devices
from modelium.cli.findings import Finding
from modelium.config import Config
from tests.fakes.nvml import (
    GIB,
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_AVAILABLE,
    UNSUPPORTED,
    VERSION_MISMATCH,
    FakeGpu,
    FakeNvml,
    fake_nvml,
    nvml_library,
)

__all__ = ["fake_nvml", "nvml_library"]


def found(**section: object) -> dict[str, Finding]:
    config = Config.model_validate({"orchestration": {"node": "n"}, "devices": section})
    return {finding.what: finding for finding in devices(config)}


def test_what_the_driver_does_not_tell_is_unknown_and_no_fault(fake_nvml: FakeNvml) -> None:
    silent = {
        "nvmlDeviceGetUtilizationRates": UNSUPPORTED,
        "nvmlDeviceGetComputeRunningProcesses": NO_PERMISSION,
    }
    fake_nvml.add(FakeGpu(uuid="GPU-a", name="NVIDIA L4", total=24 * GIB, failing=silent))
    denied = {
        "nvmlDeviceGetMemoryInfo": NO_PERMISSION,
        "nvmlDeviceGetMemoryInfo_v2": NO_PERMISSION,
    }
    fake_nvml.add(FakeGpu(uuid="GPU-b", failing=denied))
    fake_nvml.add(FakeGpu(uuid="GPU-c"))
    fake_nvml.occupy("GPU-c", 0, GIB, listed_as=1, told=NOT_AVAILABLE)

    all_ = found(cpu_beside_gpus=False)

    assert [all_[f"device {number}"].ok for number in range(3)] == [True, True, True]
    assert "device n/cpu" not in all_
    assert all_["device 0"].detail == (
        "NVIDIA L4, 24.0 of 24.0 GiB free, processes unknown, utilization unknown"
    )
    assert "memory unknown" in all_["device 1"].detail
    assert "memory of processes unknown" in all_["device 2"].detail


def test_gpus_that_are_left_out_are_shown_with_the_reason(
    fake_nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", name="NVIDIA L4"))
    fake_nvml.add(FakeGpu(uuid="GPU-b", name="NVIDIA L4"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert found(use=[1])["device 0"].detail == (
        "NVIDIA L4, not used: devices.use does not name it"
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    none = found()
    assert "CUDA_VISIBLE_DEVICES= leaves it out" in none["device 1"].detail
    assert none["device n/cpu"].ok


def test_a_lost_gpu_a_broken_driver_and_a_gpu_that_is_not_here_are_faults(
    fake_nvml: FakeNvml,
) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", error=GPU_IS_LOST))
    assert "GPU is lost" in found()["device 0"].detail
    assert not found()["device 0"].ok
    missing = found(use=["A100"])["devices"]
    assert (missing.ok, "A100, which is not here" in missing.detail) == (False, True)
    fake_nvml.fail_init(VERSION_MISMATCH)
    broken = found()["devices"]
    assert (broken.ok, "repair the NVIDIA driver" in broken.detail) == (False, True)
