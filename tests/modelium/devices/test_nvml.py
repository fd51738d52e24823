from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pynvml
import pytest

from modelium.devices import detect, processes
from modelium.devices.nvml import NvmlInventory
from modelium.models import DeviceProcess
from tests.fakes.nvml import (
    GIB,
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_AVAILABLE,
    NOT_SUPPORTED,
    UNSUPPORTED,
    VERSION_MISMATCH,
    FakeGpu,
    FakeNvml,
    fake_nvml,
    nvml_library,
)

__all__ = ["fake_nvml", "nvml_library"]

NO_SUCH_PID = 2**22 + 1
"""Above the kernel's largest pid."""


def test_gpus_are_keyed_by_node_and_uuid_with_the_memory_cuda_sees(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", reserved=GIB, used=10 * GIB, utilization=37))
    fake_nvml.add(FakeGpu(uuid="GPU-b", name="NVIDIA L4", total=24 * GIB))

    first, second = detect("node-1", cpu=False).snapshot()

    assert (first.id, first.label, first.kind) == ("node-1/GPU-a", "0", "gpu")
    assert first.total_bytes == 79 * GIB
    assert first.free_bytes == 69 * GIB
    assert first.utilization == 0.37
    assert (second.id, second.index, second.name) == ("node-1/GPU-b", 1, "NVIDIA L4")
    assert second.healthy


def test_processes_that_hold_memory_are_listed_until_they_die(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    inventory = detect("n", cpu=False)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as holder:
        fake_nvml.occupy("GPU-a", holder.pid, 3 * GIB)
        (held,) = inventory.snapshot()
        holder.kill()
    (after,) = inventory.snapshot()

    assert [(p.pid, p.used_bytes) for p in held.processes or ()] == [(holder.pid, 3 * GIB)]
    assert held.free_bytes == 77 * GIB
    assert after.processes == ()
    assert after.free_bytes == 80 * GIB


def test_a_lost_gpu_is_unhealthy_and_comes_back_by_itself(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    fake_nvml.add(FakeGpu(uuid="GPU-b"))
    inventory = detect("n", cpu=False)
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
    inventory = detect("n", cpu=False)
    inventory.snapshot()
    fake_nvml.remove("GPU-a")

    by_uuid = {device.uuid: device for device in inventory.snapshot()}

    assert not by_uuid["GPU-a"].healthy
    assert by_uuid["GPU-b"].healthy
    assert by_uuid["GPU-b"].index == 0


def test_a_gpu_that_was_never_readable_is_shown_unhealthy(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", error=GPU_IS_LOST))
    (device,) = detect("n", cpu=False).snapshot()
    assert (device.uuid, device.healthy, device.total_bytes) == ("index-0", False, 0)


def test_all_gpus_are_unhealthy_while_the_driver_is_down(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    inventory = detect("n", cpu=False)
    inventory.snapshot()
    fake_nvml.fail_init(VERSION_MISMATCH)
    (device,) = inventory.snapshot()
    assert not device.healthy
    assert device.detail


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        ("nvmlDeviceGetUUID", {"uuid": "index-0"}),
        ("nvmlDeviceGetName", {"name": ""}),
        ("nvmlDeviceGetUtilizationRates", {"utilization": None}),
        ("nvmlDeviceGetMigMode", {}),
        ("nvmlDeviceGetMemoryInfo_v2", {"total_bytes": 80 * GIB}),
        ("nvmlDeviceGetComputeRunningProcesses", {"processes": None}),
    ],
)
@pytest.mark.parametrize("code", [UNSUPPORTED, NO_PERMISSION, pynvml.NVML_ERROR_UNKNOWN])
def test_a_query_that_fails_leaves_only_its_own_answer_unknown(
    fake_nvml: FakeNvml, call: str, shown: dict[str, object], code: int
) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", used=10 * GIB, utilization=50))
    (whole,) = detect("n", cpu=False).snapshot()
    fake_nvml.change("GPU-a", failing={call: code})

    (device,) = detect("n", cpu=False).snapshot()

    assert device.healthy
    assert device.free_bytes == 70 * GIB
    assert device == whole.model_copy(update=shown)


def test_a_gpu_whose_memory_is_not_to_be_had_is_healthy_and_takes_nothing(
    fake_nvml: FakeNvml,
) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", used=10 * GIB))
    inventory = detect("n", cpu=False)
    (before,) = inventory.snapshot()
    denied = {
        "nvmlDeviceGetMemoryInfo": NO_PERMISSION,
        "nvmlDeviceGetMemoryInfo_v2": NO_PERMISSION,
    }
    fake_nvml.change("GPU-a", failing=denied)

    (as_last_read,) = inventory.snapshot()
    (never_read,) = detect("n", cpu=False).snapshot()

    assert as_last_read == before
    assert never_read.healthy
    assert (never_read.total_bytes, never_read.free_bytes) == (0, 0)


def test_a_gpu_without_memory_of_its_own_has_the_systems(
    fake_nvml: FakeNvml, tmp_path: Path
) -> None:
    (tmp_path / "meminfo").write_text(
        f"MemTotal: {128 * 2**20} kB\nMemAvailable: {100 * 2**20} kB\n"
    )
    unsupported = {
        "nvmlDeviceGetMemoryInfo": UNSUPPORTED,
        "nvmlDeviceGetMemoryInfo_v2": UNSUPPORTED,
    }
    fake_nvml.add(FakeGpu(uuid="GPU-a", name="NVIDIA GB10", failing=unsupported))

    (device,) = NvmlInventory(node="n", proc=tmp_path).snapshot()

    assert (device.healthy, device.unified) == (True, True)
    assert (device.total_bytes, device.free_bytes) == (128 * GIB, 100 * GIB)


def test_mig_instances_are_devices_and_their_gpu_is_not(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    fake_nvml.add(FakeGpu(uuid="GPU-b", mig=1, utilization=30))
    fake_nvml.add(FakeGpu(uuid="MIG-b0", parent="GPU-b", total=40 * GIB, utilization=NOT_SUPPORTED))
    fake_nvml.add(FakeGpu(uuid="MIG-b1", parent="GPU-b", total=20 * GIB, used=5 * GIB))

    whole, first, second = detect("n", cpu=False).snapshot()

    assert (whole.uuid, whole.label) == ("GPU-a", "0")
    assert (first.uuid, first.label, first.healthy) == ("MIG-b0", "1:0", True)
    assert first.utilization == 0.3
    assert (second.uuid, second.label, second.free_bytes) == ("MIG-b1", "1:1", 15 * GIB)


def test_a_partitioned_gpu_without_instances_says_what_to_do(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", mig=1))
    (device,) = detect("n", cpu=False).snapshot()
    assert not device.healthy
    assert "MIG is enabled and there is no instance: create one" in device.detail


def test_pids_of_another_namespace_are_not_taken_for_ours(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as ours:
        # The host's list: one process is not here, the other one has the number of ours.
        fake_nvml.occupy("GPU-a", 0, 2 * GIB, listed_as=NO_SUCH_PID)
        fake_nvml.occupy("GPU-a", 0, 3 * GIB, listed_as=ours.pid)
        (device,) = detect("n", cpu=False).snapshot()
        ours.communicate()
    assert device.processes is None
    assert device.free_bytes == 75 * GIB, "foreign memory counts, whosever it is"


def test_a_pid_that_was_listed_before_our_process_started_is_not_ours(
    fake_nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as ours:
        fake_nvml.occupy("GPU-a", 0, 3 * GIB, listed_as=ours.pid)
        inventory = NvmlInventory(node="n")
        with monkeypatch.context() as before_it_started:
            before_it_started.setattr(processes, "start_time", lambda pid: None)
            inventory.snapshot()
        (device,) = inventory.snapshot()
        fake_nvml.vacate("GPU-a")
        inventory.snapshot()
        fake_nvml.occupy("GPU-a", ours.pid, 3 * GIB)
        (after,) = inventory.snapshot()
        ours.communicate()
    assert device.processes is None
    assert [p.pid for p in after.processes or ()] == [ours.pid]


def test_memory_of_a_process_that_the_driver_does_not_tell_is_unknown(
    fake_nvml: FakeNvml,
) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    fake_nvml.occupy("GPU-a", os.getpid(), 3 * GIB, told=NOT_AVAILABLE)
    (device,) = detect("n", cpu=False).snapshot()
    held = DeviceProcess(pid=os.getpid(), used_bytes=None, utilization=0.0)
    assert device.processes == (held,)


def test_utilization_is_unknown_where_the_driver_does_not_tell(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", utilization=999))
    assert detect("n", cpu=False).snapshot()[0].utilization is None


def test_snapshots_are_anew_each_time(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a"))
    inventory = NvmlInventory(node="n")
    before = inventory.snapshot()[0].free_bytes
    fake_nvml.change("GPU-a", used=GIB)
    assert before - inventory.snapshot()[0].free_bytes == GIB


def test_utilization_is_the_mean_of_the_drivers_samples(fake_nvml: FakeNvml) -> None:
    answers = {"nvmlDeviceGetSamples": (20, 100, 30)}
    fake_nvml.add(FakeGpu(uuid="GPU-a", utilization=90, answers=answers))
    fake_nvml.add(FakeGpu(uuid="GPU-b", utilization=90, answers={"nvmlDeviceGetSamples": (999,)}))
    first, second = detect("n", cpu=False).snapshot()
    assert first.utilization == 0.5
    assert second.utilization == 0.9


def test_a_driver_without_samples_tells_the_last_moment(fake_nvml: FakeNvml) -> None:
    failing = {"nvmlDeviceGetSamples": UNSUPPORTED}
    fake_nvml.add(FakeGpu(uuid="GPU-a", utilization=70, failing=failing))
    assert detect("n", cpu=False).snapshot()[0].utilization == 0.7


def test_samples_are_asked_for_the_last_ten_seconds(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", answers={"nvmlDeviceGetSamples": (20,)}))
    inventory = NvmlInventory(node="n", now=lambda: 12.5)
    assert inventory._since() == 2_500_000
    assert NvmlInventory(node="n", now=lambda: 5.0)._since() == 0


def test_each_process_has_its_share_of_the_gpus_time(fake_nvml: FakeNvml) -> None:
    me, other = os.getpid(), os.getppid()
    told = (me, 40, me, 60, NO_SUCH_PID, 7)
    fake_nvml.add(FakeGpu(uuid="GPU-a", answers={"nvmlDeviceGetProcessUtilization": told}))
    fake_nvml.occupy("GPU-a", me, GIB)
    fake_nvml.occupy("GPU-a", other, GIB)
    (device,) = detect("n", cpu=False).snapshot()
    assert {p.pid: p.utilization for p in device.processes or ()} == {me: 0.5, other: 0.0}


@pytest.mark.parametrize(
    ("utilization", "failing", "share"),
    [
        (0, {}, 0.0),
        (1, {}, None),  # somebody works, and the driver hides who
        (NOT_SUPPORTED, {}, None),
        (0, {"nvmlDeviceGetProcessUtilization": UNSUPPORTED}, None),
    ],
)
def test_without_samples_a_process_has_no_share_unless_the_gpu_idles(
    fake_nvml: FakeNvml, utilization: int, failing: dict[str, int], share: float | None
) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", utilization=utilization, failing=failing))
    fake_nvml.occupy("GPU-a", os.getpid(), GIB)
    (device,) = detect("n", cpu=False).snapshot()
    assert [p.utilization for p in device.processes or ()] == [share]


def test_the_compute_capability_is_cudas(fake_nvml: FakeNvml) -> None:
    answers = {"nvmlDeviceGetCudaComputeCapability": (7, 5)}
    fake_nvml.add(FakeGpu(uuid="GPU-a", answers=answers))
    failing = {"nvmlDeviceGetCudaComputeCapability": UNSUPPORTED}
    fake_nvml.add(FakeGpu(uuid="GPU-b", failing=failing))
    first, second = detect("n", cpu=False).snapshot()
    assert (first.compute_capability, second.compute_capability) == ((7, 5), None)
