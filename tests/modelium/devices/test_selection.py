"""The operator's list and CUDA_VISIBLE_DEVICES, over the real pynvml."""

from __future__ import annotations

import pytest

from modelium.devices import HostInventory, detect
from modelium.errors import Unavailable
from tests.fakes.nvml import GIB, FakeGpu, FakeNvml, fake_nvml, nvml_library

__all__ = ["fake_nvml", "nvml_library"]


@pytest.fixture
def three_gpus(fake_nvml: FakeNvml) -> FakeNvml:
    fake_nvml.add(FakeGpu(uuid="GPU-aa1", name="NVIDIA L4", total=24 * GIB))
    fake_nvml.add(FakeGpu(uuid="GPU-aa2", name="NVIDIA H100 80GB HBM3"))
    fake_nvml.add(FakeGpu(uuid="GPU-bb3", name="NVIDIA H100 80GB HBM3"))
    return fake_nvml


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["GPU-aa1", "GPU-aa2", "GPU-bb3"]),
        ("2", ["GPU-bb3"]),
        ("2,0", ["GPU-aa1", "GPU-bb3"]),
        ("GPU-aa2", ["GPU-aa2"]),
        ("GPU-b, 0", ["GPU-aa1", "GPU-bb3"]),
        ("", ["cpu"]),
        ("-1", ["cpu"]),
        ("NoDevFiles", ["cpu"]),
        # As in CUDA, an entry that names nothing ends the list.
        ("0,7,1", ["GPU-aa1"]),
    ],
)
def test_cuda_visible_devices_of_the_service_is_respected(
    three_gpus: FakeNvml, visible: str | None, expected: list[str]
) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    inventory = detect("n", cpu=False, environment=environment)
    assert [device.uuid for device in inventory.snapshot()] == expected


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (["0"], ["GPU-aa1"]),
        (["GPU-aa2", "0"], ["GPU-aa1", "GPU-aa2"]),
        (["h100"], ["GPU-aa2", "GPU-bb3"]),
    ],
)
def test_only_gpus_that_the_operator_names_are_used(
    three_gpus: FakeNvml, use: list[str], expected: list[str]
) -> None:
    inventory = detect("n", cpu=False, use=use, environment={})
    assert [device.uuid for device in inventory.snapshot()] == expected


def test_gpus_that_are_left_out_have_a_reason(three_gpus: FakeNvml) -> None:
    inventory = detect("n", use=["L4", "H100"], environment={"CUDA_VISIBLE_DEVICES": "1,2"})
    assert isinstance(inventory, HostInventory)
    ((device, why),) = inventory.left_out()
    assert (device.uuid, why) == ("GPU-aa1", "CUDA_VISIBLE_DEVICES=1,2 leaves it out")
    narrower = detect("n", use=["1"], environment={})
    assert isinstance(narrower, HostInventory)
    assert {d.index: why for d, why in narrower.left_out()} == {
        0: "devices.use does not name it",
        2: "devices.use does not name it",
    }


def test_a_gpu_that_is_not_here_is_an_error_and_not_a_cpu_host(three_gpus: FakeNvml) -> None:
    with pytest.raises(Unavailable, match=r"devices.use names A100, which is not here; .* 0 \("):
        detect("n", use=["A100", "L4"], environment={})


def test_a_mig_instance_is_named_by_its_uuid_or_its_place(fake_nvml: FakeNvml) -> None:
    fake_nvml.add(FakeGpu(uuid="GPU-a", mig=1))
    fake_nvml.add(FakeGpu(uuid="MIG-a0", parent="GPU-a", total=40 * GIB))
    fake_nvml.add(FakeGpu(uuid="MIG-a1", parent="GPU-a", total=40 * GIB))
    by_place = detect("n", cpu=False, use=["0:1"], environment={})
    by_uuid = detect("n", cpu=False, environment={"CUDA_VISIBLE_DEVICES": "MIG-a0"})
    assert [device.uuid for device in by_place.snapshot()] == ["MIG-a1"]
    assert [device.uuid for device in by_uuid.snapshot()] == ["MIG-a0"]
