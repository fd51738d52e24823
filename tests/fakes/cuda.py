"""Builds the fake CUDA driver, whose allocations the fake NVML library shows."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("cuda.c")
CONTEXT_BYTES = 400 * 2**20


@dataclass(frozen=True, kw_only=True)
class CudaGpu:
    """One GPU as CUDA lists it."""

    uuid: str
    bus: str
    name: str = "NVIDIA H100 80GB HBM3"
    total: int = 80 * 2**30


@dataclass(frozen=True, kw_only=True)
class FakeCuda:
    """The table that the fake driver reads when a process starts to use it."""

    table: Path

    def lists(self, gpus: Sequence[CudaGpu]) -> None:
        """Have CUDA count these GPUs, in its default order."""
        self.table.write_text("".join(f"{g.uuid} {g.bus} {g.total} {g.name}\n" for g in gpus))


@pytest.fixture(scope="session")
def cuda_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the driver; needs gcc."""
    library = tmp_path_factory.mktemp("cuda") / "libcuda.so.1"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE], check=True, timeout=60
    )
    return library


@pytest.fixture
def fake_cuda(cuda_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A driver without GPUs, which child processes load."""
    fake = FakeCuda(table=tmp_path / "cuda-table")
    fake.lists([])
    monkeypatch.setenv("LD_LIBRARY_PATH", str(cuda_library.parent))
    monkeypatch.setenv("FAKE_CUDA_TABLE", str(fake.table))
    monkeypatch.setenv("FAKE_CUDA_CONTEXT", str(CONTEXT_BYTES))
    return fake
