"""Builds the fake NVML library; tests change the GPUs through a table."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

GIB = 1024**3
SOURCE = Path(__file__).with_name("nvml.c")
TABLE_VARIABLE = "FAKE_NVML_TABLE"
GPU_IS_LOST = 15
VERSION_MISMATCH = 18
NOT_SUPPORTED = 999
"""Any value that the real call cannot return makes the fake report "not supported"."""


@dataclass(frozen=True, kw_only=True)
class FakeGpu:
    """A row of the table; sizes in bytes."""

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    total: int = 80 * GIB
    reserved: int = 0
    used: int = 0
    utilization: int = 0
    """Percent."""
    error: int = 0
    mig: int = NOT_SUPPORTED


@dataclass(kw_only=True)
class FakeNvml:
    """The table that the fake library reads at each call."""

    library: Path
    table: Path
    init_error: int = 0
    gpus: dict[str, FakeGpu] = field(default_factory=dict)

    def add(self, gpu: FakeGpu) -> FakeGpu:
        self.gpus[gpu.uuid] = gpu
        self.write()
        return gpu

    def change(self, uuid: str, **changes: object) -> None:
        self.gpus[uuid] = replace(self.gpus[uuid], **changes)  # type: ignore[arg-type]
        self.write()

    def remove(self, uuid: str) -> None:
        del self.gpus[uuid]
        self.write()

    def occupy(self, uuid: str, pid: int, bytes_: int) -> None:
        """Add memory of process ``pid``, which counts until the process ends."""
        with self.table.open("a") as table:
            table.write(f"proc\t{uuid}\t{pid}\t{bytes_}\n")

    def fail_init(self, code: int) -> None:
        self.init_error = code
        self.write()

    def write(self) -> None:
        kept = self.table.read_text() if self.table.exists() else ""
        rows = [f"init\t{self.init_error}"]
        rows += [
            f"gpu\t{g.uuid}\t{g.name}\t{g.total}\t{g.reserved}\t{g.used}"
            f"\t{g.utilization}\t{g.error}\t{g.mig}"
            for g in self.gpus.values()
        ]
        rows += [line for line in kept.splitlines() if line.startswith("proc")]
        fresh = self.table.with_suffix(".new")
        fresh.write_text("\n".join(rows) + "\n")
        fresh.replace(self.table)

    def environment(self) -> dict[str, str]:
        """Return the environment in which another process sees the same GPUs."""
        return {"LD_LIBRARY_PATH": str(self.library.parent), TABLE_VARIABLE: str(self.table)}


def build(folder: Path) -> Path:
    """Compile the library into ``folder``; needs gcc."""
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-Wl,-soname,libnvidia-ml.so.1", "-o", library, SOURCE],
        check=True,
        timeout=60,
    )
    return library


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Load the fake library into this process, where pynvml finds it by its soname."""
    library = build(tmp_path_factory.mktemp("nvml"))
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    return library


@pytest.fixture
def fake_nvml(nvml_library: Path, tmp_path: Path) -> Iterator[FakeNvml]:
    """A driver without GPUs; without this fixture's table, the driver is "not loaded"."""
    fake = FakeNvml(library=nvml_library, table=tmp_path / "nvml-table")
    fake.write()
    os.environ[TABLE_VARIABLE] = str(fake.table)
    yield fake
    del os.environ[TABLE_VARIABLE]
