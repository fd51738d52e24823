"""What a real driver answered, replayed through the fake library: the fake does as the driver did."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modelium.devices.nvml import NvmlInventory
from modelium.devices.recording import record
from tests.fakes.nvml import GIB, NO_PERMISSION, FakeGpu, FakeNvml, fake_nvml, nvml_library

__all__ = ["fake_nvml", "nvml_library"]

RECORDS = sorted((Path(__file__).parents[2] / "data" / "nvml").glob("*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_recording_over_the_fake_library_is_the_recording(
    path: Path, fake_nvml: FakeNvml
) -> None:
    recorded = json.loads(path.read_text())
    fake_nvml.load(recorded)

    again = record()

    assert again["init"] == recorded["init"]
    assert again["system"] == recorded["system"]
    assert [_common(a, b) for a, b in zip(again["devices"], recorded["devices"], strict=True)] == (
        recorded["devices"]
    )
    assert json.loads(json.dumps(again)) == again


def test_a_recording_names_the_calls_that_failed(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", failing={"nvmlDeviceGetName": NO_PERMISSION}))
    fake_nvml.add(FakeGpu(uuid="GPU-b", mig=1))
    fake_nvml.add(FakeGpu(uuid="MIG-b", parent="GPU-b", total=10 * GIB))

    before = record()
    for uuid in ("MIG-b", "GPU-b", "GPU-a"):
        fake_nvml.remove(uuid)
    fake_nvml.load(before)

    first, second = before["devices"]
    assert first["nvmlDeviceGetName"]["error"] == NO_PERMISSION
    assert first["nvmlDeviceGetUUID"] == {"ok": "GPU-a"}
    assert second["mig"][0]["nvmlDeviceGetMemoryInfo"]["ok"]["total"] == 10 * GIB
    assert record() == before


def test_a_recording_without_a_driver_says_so(fake_nvml: FakeNvml) -> None:
    fake_nvml.fail_init(9)
    assert record() == {"format": 1, "init": {"error": 9, "message": "Driver Not Loaded"}}


def test_a_recorded_gpu_reads_as_cuda_saw_it(fake_nvml: FakeNvml) -> None:
    recorded = json.loads(next(p for p in RECORDS if p.stem == "h200-one-process").read_text())
    fake_nvml.load(recorded)
    (answers,) = recorded["devices"]
    uuid = answers["nvmlDeviceGetUUID"]["ok"]
    held = answers["nvmlDeviceGetComputeRunningProcesses"]["ok"][0]["usedGpuMemory"]
    fake_nvml.vacate(uuid)
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        fake_nvml.occupy(uuid, holder.pid, held)
        (device,) = NvmlInventory(node="n").snapshot()
    finally:
        holder.communicate()
    assert [device.free_bytes, device.total_bytes] == recorded["cuda_mem_get_info"][0]
    assert [p.used_bytes for p in device.processes or ()] == [held]
    assert device.healthy


def _common(answers: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """Return the answers to the calls that had been recorded (there may be more today)."""
    return {call: answers[call] for call in recorded}
