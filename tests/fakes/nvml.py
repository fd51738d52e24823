"""Builds the fake NVML library; tests change the GPUs through a table."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

GIB = 1024**3
SOURCE = Path(__file__).with_name("nvml.c")
TABLE_VARIABLE = "FAKE_NVML_TABLE"
GPU_IS_LOST = 15
VERSION_MISMATCH = 18
NOT_SUPPORTED = 999
"""Any value that the real call cannot return makes the fake report "not supported"."""
UNSUPPORTED = 3
NO_PERMISSION = 4
NOT_AVAILABLE = 2**64 - 1
"""What NVML returns as a process's memory where it cannot know it (WSL2)."""
HIDDEN = 0

COMPUTED = frozenset(
    {
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetName",
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetGraphicsRunningProcesses",
        "nvmlDeviceIsMigDeviceHandle",
    }
)
"""Calls that the fake answers from a GPU's row and its processes, where they do not fail."""


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
    """NVML's code, with which all calls fail."""
    mig: int = NOT_SUPPORTED
    parent: str = ""
    """UUID of the GPU of which this is a MIG instance."""
    failing: dict[str, int] = field(default_factory=dict)
    """NVML function → the code with which this call alone fails."""
    answers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """NVML function → the numbers that it returns, where not the default ones."""


@dataclass(kw_only=True)
class FakeNvml:
    """The table that the fake library reads at each call."""

    library: Path
    table: Path
    init_error: int = 0
    gpus: dict[str, FakeGpu] = field(default_factory=dict)
    """By UUID, in NVML's order."""
    texts: dict[str, str] = field(default_factory=dict)
    """System call → what it returns."""

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

    def occupy(
        self,
        uuid: str,
        pid: int,
        bytes_: int,
        *,
        listed_as: int | None = None,
        told: int | None = None,
    ) -> None:
        """Add memory of process ``pid``, which counts until the process ends; 0: until `vacate`.

        Args:
            uuid: of the GPU.
            pid: here.
            bytes_: what it holds.
            listed_as: its pid in NVML's list (another PID namespace's); `HIDDEN`: not listed.
            told: its memory in NVML's list, where that is something else (`NOT_AVAILABLE`).
        """
        listed = pid if listed_as is None else listed_as
        with self.table.open("a") as table:
            table.write(f"proc\t{uuid}\t{pid}\t{bytes_}\t{listed}")
            table.write(f"\t{bytes_ if told is None else told}\n")

    def vacate(self, uuid: str) -> None:
        """Take away the memory of all processes on a GPU."""
        kept = self.table.read_text().splitlines()
        self.table.write_text(
            "".join(f"{line}\n" for line in kept if not line.startswith(f"proc\t{uuid}\t"))
        )

    def load(self, recorded: Mapping[str, Any]) -> None:
        """Answer as a machine did whose answers `modelium.devices.recording` has recorded."""
        self.init_error = recorded["init"].get("error", 0)
        self.texts = {
            call: str(answer["ok"])
            for call, answer in recorded.get("system", {}).items()
            if "ok" in answer
        }
        for answers in recorded.get("devices", ()):
            self._load(answers, parent="")
        self.write()

    def _load(self, answers: Mapping[str, Any], parent: str) -> None:
        told = {call: a["ok"] for call, a in answers.items() if "ok" in a}
        uuid = told.get("nvmlDeviceGetUUID", f"unknown-{len(self.gpus)}")
        v1, v2 = told.get("nvmlDeviceGetMemoryInfo"), told.get("nvmlDeviceGetMemoryInfo_v2")
        memory = v2 or v1 or {"total": 0, "used": 0}
        processes = told.get("nvmlDeviceGetComputeRunningProcesses", ())
        held = sum(p["usedGpuMemory"] or 0 for p in processes)
        self.gpus[uuid] = FakeGpu(
            uuid=uuid,
            name=told.get("nvmlDeviceGetName", "unknown"),
            total=memory["total"],
            reserved=memory.get("reserved", 0),
            used=max(0, memory["used"] - held),
            utilization=told.get("nvmlDeviceGetUtilizationRates", {}).get("gpu", NOT_SUPPORTED),
            error=answers.get("nvmlDeviceGetHandleByIndex", {}).get("error", 0),
            mig=(told.get("nvmlDeviceGetMigMode") or [NOT_SUPPORTED])[0],
            parent=parent,
            failing={c: a["error"] for c, a in answers.items() if "error" in a},
            answers={c: _numbers(value) for c, value in told.items() if c not in COMPUTED},
        )
        self.write()
        for process in processes:
            bytes_ = process["usedGpuMemory"]
            told_bytes = NOT_AVAILABLE if bytes_ is None else bytes_
            self.occupy(uuid, 0, bytes_ or 0, listed_as=process["pid"], told=told_bytes)
        for instance in answers.get("mig", ()):
            self._load(instance, parent=uuid)

    def fail_init(self, code: int) -> None:
        self.init_error = code
        self.write()

    def write(self) -> None:
        kept = self.table.read_text() if self.table.exists() else ""
        rows = [f"init\t{self.init_error}"]
        rows += [f"text\t{call}\t{text}" for call, text in self.texts.items()]
        at = {uuid: row for row, uuid in enumerate(self.gpus)}
        for row, g in enumerate(self.gpus.values()):
            rows.append(
                f"gpu\t{at.get(g.parent, -1)}\t{g.uuid}\t{g.name}\t{g.total}\t{g.reserved}"
                f"\t{g.used}\t{g.utilization}\t{g.error}\t{g.mig}"
            )
            rows += [f"answer\t{row}\t{call}\t{code}" for call, code in g.failing.items()]
            rows += [
                "\t".join(map(str, ("answer", row, call, 0, *numbers)))
                for call, numbers in g.answers.items()
            ]
        rows += [line for line in kept.splitlines() if line.startswith("proc")]
        fresh = self.table.with_suffix(".new")
        fresh.write_text("\n".join(rows) + "\n")
        fresh.replace(self.table)

    def environment(self) -> dict[str, str]:
        """Return the environment in which another process sees the same GPUs."""
        return {"LD_LIBRARY_PATH": str(self.library.parent), TABLE_VARIABLE: str(self.table)}


def _numbers(value: Any) -> tuple[int, ...]:
    """Return the numbers of a recorded answer, in the order of NVML's structure."""
    if isinstance(value, Mapping):
        return tuple(v for v in value.values() if isinstance(v, int))
    return tuple(value) if isinstance(value, list) else (value,)


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
