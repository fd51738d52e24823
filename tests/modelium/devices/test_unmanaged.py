from __future__ import annotations

from pathlib import Path

import pytest

from modelium.devices.unmanaged import unmanaged


def card(root: Path, address: str, vendor: str, kind: str) -> None:
    folder = root / "sys/bus/pci/devices" / address
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "class").write_text(f"{kind}\n")


def test_a_machine_without_graphics_cards_has_nothing_to_say(tmp_path: Path) -> None:
    card(tmp_path, "0000:00:01.0", "0x10de", "0x020000")  # a network card of NVIDIA's
    card(tmp_path, "0000:00:02.0", "0x8086", "0x030000")  # Intel graphics
    assert unmanaged(nvml=False, root=tmp_path) == []


def test_amd_gpus_are_named(tmp_path: Path) -> None:
    card(tmp_path, "0000:03:00.0", "0x1002", "0x038000")
    card(tmp_path, "0000:04:00.0", "0x1002", "0x030000")
    for nvml in (False, True):
        (seen,) = unmanaged(nvml=nvml, root=tmp_path)
        assert (seen.vendor, seen.repairable) == ("AMD", False)
        assert seen.detail.startswith("AMD GPUs are seen and not managed")


def test_amd_gpus_in_a_container_show_by_their_device_file(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").touch()
    assert [seen.vendor for seen in unmanaged(nvml=False, root=tmp_path)] == ["AMD"]


@pytest.mark.parametrize(
    ("loaded", "expected"),
    [(True, "libnvidia-ml.so.1 is missing"), (False, "GPUs are seen, but no driver is loaded")],
)
def test_an_nvidia_gpu_without_driver_or_library_is_named(
    tmp_path: Path, loaded: bool, expected: str
) -> None:
    card(tmp_path, "0000:03:00.0", "0x10de", "0x030200")
    if loaded:
        (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
        (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: 580\n")
    (seen,) = unmanaged(nvml=False, root=tmp_path)
    assert seen.repairable
    assert expected in seen.detail
    assert unmanaged(nvml=True, root=tmp_path) == []
