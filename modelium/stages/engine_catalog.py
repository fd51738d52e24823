"""What the engines of the configured runtimes can serve."""

from __future__ import annotations

import shutil
from pathlib import Path

from modelium.analysis import EngineCatalog, read_catalog
from modelium.config import Config


def engines(config: Config) -> EngineCatalog:
    """Read the environments that ``config`` names. Blocks; the first call takes longest."""
    vllm = shutil.which(config.vllm.executable) if config.vllm.enabled else None
    python = config.ray_serve.python and shutil.which(config.ray_serve.python)
    return read_catalog(
        vllm=Path(vllm) if vllm else None, ray_python=Path(python) if python else None
    )
