"""Folders for the kernels that engines compile, which take minutes at the first start."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from modelium.models import Device
from runtimes.process.supervisor import Command

CACHES = {
    "VLLM_CACHE_ROOT": "vllm",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TORCH_EXTENSIONS_DIR": "extensions",
    "TRITON_CACHE_DIR": "triton",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "CUDA_CACHE_PATH": "cuda",
}
"""Variable → folder of what an engine compiles; by default they lie in the home directory, which
a container loses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileCaches:
    """One folder per build of an engine and kind of GPU: kernels of one may break another.

    Engines run what they find there, so a model whose own code runs gets folders of its own.
    """

    root: Path
    build: str
    """The engine's command and version."""

    def folders(self, device: Device, *, own: str | None = None) -> dict[str, str]:
        """Return the variables that point an engine on ``device`` to its folders.

        ``own``: the model, where it shares them with no other.
        """
        build = hashlib.sha256(self.build.encode()).hexdigest()[:8]
        name = device.name if device.kind == "gpu" else "cpu"
        kind = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() or "gpu"
        root = self.root / "own" / own if own else self.root
        return {name: str(root / build / kind / folder) for name, folder in CACHES.items()}

    def added(self, command: Command, device: Device, *, own: str | None = None) -> Command:
        """Return ``command`` with those variables that the operator has not set; see `folders`."""
        folders = self.folders(device, own=own)
        added = {name: value for name, value in folders.items() if name not in os.environ}
        return replace(command, environment=added | dict(command.environment))
