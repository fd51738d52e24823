"""What a real driver answered, replayed through the fake library: the fake does as the driver did."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelium.devices.nvml import NvmlInventory
from tests.fakes.nvml import FakeGpu, FakeNvml, fake_nvml, nvml_library

__all__ = ["fake_nvml", "nvml_library"]

RECORDS = sorted((Path(__file__).parents[2] / "data" / "nvml").glob("*.json"))


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_a_recorded_gpu_reads_as_it_did_on_its_machine(record: Path, fake_nvml: FakeNvml) -> None:
    recorded = json.loads(record.read_text())
    held = recorded["one_process"]
    answers = held["calls"]["0"]
    memory = answers["memory_v2"]["ok"]
    (process,) = answers["nvmlDeviceGetComputeRunningProcesses"]["ok"]
    # Of the used bytes the driver attributes most, not all, to the process.
    unattributed = memory["used"] - process["usedGpuMemory"]
    fake_nvml.add(
        FakeGpu(
            uuid=answers["nvmlDeviceGetUUID"]["ok"],
            name=answers["nvmlDeviceGetName"]["ok"],
            total=memory["total"],
            reserved=memory["reserved"],
            used=unattributed,
            mig=0,
        )
    )
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        uuid = answers["nvmlDeviceGetUUID"]["ok"]
        fake_nvml.occupy(uuid, holder.pid, process["usedGpuMemory"])
        (device,) = NvmlInventory(node="n").snapshot()
    finally:
        holder.communicate()
    free, total = held["cuda_mem_get_info"]
    assert (device.free_bytes, device.total_bytes) == (free, total), "as CUDA sees it"
    assert [p.used_bytes for p in device.processes] == [process["usedGpuMemory"]]
    assert device.healthy
