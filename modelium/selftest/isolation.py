"""A service beside the user's: in a temporary folder, on free ports, with one runtime."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from modelium.app import Running, end, running
from modelium.config import Config
from modelium.config.hosts import free_port
from modelium.models import RuntimeName

TICK_S = 1.0
"""Pace of its control loop, which measures memory."""


@asynccontextmanager
async def service(
    config: Config, runtime: RuntimeName, *, beside_gpus: bool
) -> AsyncIterator[Running]:
    """Run a service with ``runtime`` alone in a temporary folder; end all that it started.

    ``beside_gpus``: whether a machine with GPUs offers its CPU as well.
    """
    with tempfile.TemporaryDirectory(prefix="modelium-selftest-", ignore_cleanup_errors=True) as at:
        own = isolated(config, Path(at), runtime, beside_gpus=beside_gpus)
        try:
            async with running(own) as service:
                yield service
        finally:
            await end(own)


def isolated(
    config: Config, folder: Path, runtime: RuntimeName, *, beside_gpus: bool = True
) -> Config:
    """Return ``config`` with ``runtime`` alone, moved to ``folder`` and to free ports."""
    given = config.model_dump(mode="python", exclude_unset=True)
    section = dict(given.get(runtime.value, {})) | {"enabled": True}
    if runtime is RuntimeName.TRITON and config.triton.command:
        port = free_port("127.0.0.1", 3)
        section |= {"endpoint": f"http://127.0.0.1:{port}", "grpc_endpoint": None}
        section |= {"model_repository": None}
    if runtime is RuntimeName.RAY_SERVE and config.ray_serve.address is None:
        section |= {"endpoint": "http://127.0.0.1:0"}
    if runtime in (RuntimeName.VLLM, RuntimeName.LLAMA_CPP):
        section |= {"base_port": 0}
    orchestration = {
        "model_repository": folder / "repository",
        "incoming_directory": folder / "incoming",
        "metrics": {"prometheus_enabled": False, "collection_interval_seconds": TICK_S},
    }
    for kept in ("node", "cpu_memory_gib"):
        if kept in given.get("orchestration", {}):
            orchestration[kept] = given["orchestration"][kept]
    return Config.model_validate(
        {
            "orchestration": orchestration,
            "devices": {"use": config.devices.use, "cpu_beside_gpus": beside_gpus},
            "sandbox": given.get("sandbox", {}),
            "ingest": {"quiet_period_seconds": 0.5},
            # Without a token everyone with an account here could have it ingest and approve.
            "gateway": {"port": 0, "token": secrets.token_urlsafe(24)},
            "prefect": {"enabled": False},
            runtime.value: section,
        }
    )
