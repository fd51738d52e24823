"""The GPU checks over the fake NVML library and the fake CUDA driver."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from modelium.devices import detect
from modelium.selftest.gpus import HELD_BYTES, check_gpus
from modelium.selftest.report import Check
from tests.fakes.cuda import CONTEXT_BYTES, CudaGpu, FakeCuda
from tests.fakes.nvml import HIDDEN, FakeGpu, FakeNvml

pytestmark = pytest.mark.slow

SLOW = "GPU-00000000-0000-0000-0000-00000000000a"
FAST = "GPU-00000000-0000-0000-0000-00000000000b"


@pytest.fixture
def two_gpus(fake_nvml: FakeNvml, fake_cuda: FakeCuda) -> FakeCuda:
    """By PCI bus the slow one is first; CUDA counts the fast one first."""
    fake_nvml.add(FakeGpu(uuid=SLOW, name="NVIDIA L4"))
    fake_nvml.add(FakeGpu(uuid=FAST))
    fake_cuda.lists(
        [CudaGpu(uuid=FAST, bus="0000:02:00.0"), CudaGpu(uuid=SLOW, bus="0000:01:00.0")]
    )
    return fake_cuda


def check() -> dict[str, Check]:
    return {found.name: found for found in check_gpus(detect("n"))}


def outcomes(checks: dict[str, Check]) -> Sequence[str]:
    return [found.outcome for found in checks.values()]


@pytest.mark.usefixtures("two_gpus")
def test_cuda_and_nvml_agree_by_pci_bus_and_memory_comes_back() -> None:
    found = check()
    assert outcomes(found) == ["ok"] * 5, found
    order = found["GPU order"]
    assert order.facts["cuda_default"] == {FAST: 0, SLOW: 1}
    assert order.facts["nvml"] == order.facts["cuda_pci_bus_id"] == {SLOW: 0, FAST: 1}
    memory = found["GPU 1: memory of a process"].facts
    assert memory["process_listed"]
    assert memory["taken_bytes"] == memory["process_bytes"] == HELD_BYTES + CONTEXT_BYTES
    assert memory["context_bytes"] == CONTEXT_BYTES


@pytest.mark.usefixtures("two_gpus")
def test_a_hidden_process_is_a_fact_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CUDA_LISTED_PID", str(HIDDEN))
    memory = check()["GPU 0: memory of a process"]
    assert memory.outcome == "ok" and "hidden" in memory.detail
    assert memory.facts["process_listed"] is False
    assert memory.facts["taken_bytes"] == HELD_BYTES + CONTEXT_BYTES


def test_gpus_that_cuda_numbers_differently_even_by_bus_fail(
    two_gpus: FakeCuda,
) -> None:
    two_gpus.lists([CudaGpu(uuid=FAST, bus="0000:01:00.0"), CudaGpu(uuid=SLOW, bus="0000:02:00.0")])
    order = check()["GPU order"]
    assert order.outcome == "failed" and SLOW in order.detail and FAST in order.detail


def test_a_gpu_that_cuda_cannot_select_by_uuid_fails(two_gpus: FakeCuda) -> None:
    two_gpus.lists([CudaGpu(uuid=FAST, bus="0000:02:00.0")])
    found = check()["GPU 0: selection by UUID"]
    assert found.outcome == "failed" and "no CUDA-capable device" in found.detail


def test_a_full_gpu_is_skipped(two_gpus: FakeCuda, fake_nvml: FakeNvml) -> None:
    fake_nvml.change(SLOW, used=79 * 2**30 + 2**29)
    assert check()["GPU 0: memory of a process"].outcome == "skipped"


def test_a_driver_that_does_not_work_is_named(fake_nvml: FakeNvml, fake_cuda: FakeCuda) -> None:
    fake_nvml.add(FakeGpu(uuid=SLOW))
    fake_cuda.lists([])
    (only,) = check().values()
    assert only.name == "CUDA" and only.outcome == "failed"
    assert "no CUDA-capable device" in only.detail


@pytest.mark.usefixtures("fake_nvml")
def test_without_a_gpu_the_checks_are_skipped() -> None:
    assert outcomes(check()) == ["skipped"]
