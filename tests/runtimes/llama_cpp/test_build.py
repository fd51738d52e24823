"""Which devices a llama-server build can use, and that a CPU build books no GPU memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.clock import SystemClock
from modelium.config import LlamaCpp as LlamaCppSection
from modelium.models import GIB, Device, DeviceKind, RuntimeStatus
from runtimes.llama_cpp.build import device_kinds, parse
from runtimes.llama_cpp.driver import llama_cpp_driver
from tests.fakes.devices import CPU, FixedInventory

GPU = Device(node="here", uuid="GPU-0", kind="gpu", total_bytes=8 * GIB, free_bytes=8 * GIB)

CUDA_ANSWER = """\
ggml_cuda_init: found 1 CUDA devices:
  Device 0: NVIDIA H200, compute capability 9.0, VMM: yes
Available devices:
  CUDA0: NVIDIA H200 (143155 MiB, 142500 MiB free)
"""


@pytest.mark.parametrize(
    ("output", "kinds"),
    [
        (CUDA_ANSWER, {"gpu"}),
        ("Available devices:\n  Vulkan0: NVIDIA L4 (23034 MiB, 22000 MiB free)\n", {"gpu"}),
        ("Available devices:\n", {"cpu"}),
        ("load_backend: loaded CPU backend\nAvailable devices:\n  (none)\n", {"cpu"}),
        ("Available devices:\n  BLAS: OpenBLAS (0 MiB, 0 MiB free)\n", {"cpu"}),
        ("error: invalid argument: --list-devices\n", None),
    ],
)
def test_the_answer_to_list_devices(output: str, kinds: set[DeviceKind] | None) -> None:
    assert parse(output) == kinds


def server(folder: Path, output: str, code: int = 0) -> Path:
    """Write a command that answers ``output``."""
    answer = folder / "answer"
    answer.write_text(output)
    command = folder / "llama-server"
    command.write_text(f'#!/bin/sh\n[ "$*" = --list-devices ] && cat {answer} && exit {code}\n')
    command.chmod(0o755)
    return command


async def status(executable: Path, *devices: Device) -> RuntimeStatus:
    driver = llama_cpp_driver(
        config=LlamaCppSection(enabled=True, executable=str(executable), base_port=0),
        state_directory=executable.parent,
        clock=SystemClock(),
        devices=FixedInventory(*devices),
    )
    async with driver:
        return await driver.status()


async def test_a_cpu_build_uses_the_cpu_beside_gpus(tmp_path: Path) -> None:
    found = await status(server(tmp_path, "Available devices:\n"), GPU, CPU)
    assert (found.healthy, found.device_kinds) == (True, {"cpu"})


async def test_a_cpu_build_without_a_cpu_device_says_what_to_change(tmp_path: Path) -> None:
    found = await status(server(tmp_path, "Available devices:\n"), GPU)
    assert not found.healthy
    assert "cannot use GPUs, and devices.cpu_beside_gpus is off" in found.detail


async def test_a_cuda_build_uses_the_gpus(tmp_path: Path) -> None:
    found = await status(server(tmp_path, CUDA_ANSWER), GPU, CPU)
    assert (found.healthy, found.device_kinds) == (True, {"gpu"})


async def test_a_build_that_cannot_be_asked_is_taken_for_one_with_cuda(tmp_path: Path) -> None:
    old = server(tmp_path, "error: invalid argument: --list-devices\n", code=1)
    assert (await status(old, GPU, CPU)).device_kinds == {"gpu"}
    assert (await status(old, CPU)).device_kinds == {"cpu"}
    assert await device_kinds(tmp_path / "missing") is None
