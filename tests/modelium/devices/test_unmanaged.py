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
    assert unmanaged(tmp_path) == []


def test_amd_gpus_are_named(tmp_path: Path) -> None:
    card(tmp_path, "0000:03:00.0", "0x1002", "0x038000")
    card(tmp_path, "0000:04:00.0", "0x1002", "0x030000")
    (line,) = unmanaged(tmp_path)
    assert line.startswith("2 AMD GPUs are seen and not managed")


def test_amd_gpus_in_a_container_show_by_their_device_file(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").touch()
    assert "AMD" in unmanaged(tmp_path)[0]


@pytest.mark.parametrize(
    ("loaded", "expected"),
    [(True, "libnvidia-ml.so.1 does not answer"), (False, "1 NVIDIA GPU is seen, but no driver")],
)
def test_an_nvidia_gpu_without_driver_or_library_is_named(
    tmp_path: Path, loaded: bool, expected: str
) -> None:
    card(tmp_path, "0000:03:00.0", "0x10de", "0x030200")
    if loaded:
        (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
        (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: 580\n")
    (line,) = unmanaged(tmp_path)
    assert expected in line
