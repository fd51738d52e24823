"""The vLLM driver: one server process per model, on a port of its own, behind a key of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from modelium.config import Vllm
from modelium.ports import Clock, DeviceInventory
from runtimes.engines.driver import EngineDriver
from runtimes.engines.sleep import EngineSleep
from runtimes.engines.start import NO_PROGRESS_S
from runtimes.loading.device_turns import DeviceTurns
from runtimes.vllm.engine import VllmEngine


def vllm_driver(
    *,
    config: Vllm,
    state_directory: Path,
    clock: Clock,
    devices: DeviceInventory,
    turns: DeviceTurns | None = None,
    no_progress_s: float = NO_PROGRESS_S,
) -> EngineDriver:
    """`modelium.ports.Runtime` over vLLM's own command, in vLLM's own environment.

    See `EngineDriver` for the arguments.
    """
    executable = shutil.which(config.executable) or config.executable
    recipe = VllmEngine(config=config, executable=executable)
    return EngineDriver(
        config=config,
        recipe=recipe,
        state_directory=state_directory,
        clock=clock,
        devices=devices,
        turns=turns,
        no_progress_s=no_progress_s,
        sleep=EngineSleep(enabled=recipe.sleeps),
        version=_version,
    )


def _version(executable: Path) -> str:
    """Read it from the environment's metadata: asking vLLM itself takes ten seconds of imports."""
    environment = executable.resolve().parent.parent
    for metadata in environment.glob("lib/python*/site-packages/vllm-*.dist-info"):
        return metadata.name.removeprefix("vllm-").removesuffix(".dist-info")
    return ""
