"""The llama.cpp driver: one `llama-server` per GGUF model, mainly for hosts without a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path

from modelium.config import LlamaCpp
from modelium.ports import Clock, DeviceInventory
from runtimes.engines.driver import EngineDriver
from runtimes.engines.start import NO_PROGRESS_S
from runtimes.llama_cpp.build import device_kinds
from runtimes.llama_cpp.recipe import LlamaCppRecipe
from runtimes.loading.device_locks import DeviceLocks
from runtimes.process.sandbox import Sandbox


def llama_cpp_driver(
    *,
    config: LlamaCpp,
    state_directory: Path,
    clock: Clock,
    devices: DeviceInventory,
    device_locks: DeviceLocks | None = None,
    no_progress_s: float = NO_PROGRESS_S,
    sandbox: Sandbox | None = None,
) -> EngineDriver:
    """Return a driver that runs the `llama-server` command; its models cannot sleep.

    See `EngineDriver` for the arguments.
    """
    executable = shutil.which(config.executable) or config.executable
    return EngineDriver(
        config=config,
        recipe=LlamaCppRecipe(config=config, executable=executable),
        state_directory=state_directory,
        clock=clock,
        devices=devices,
        device_locks=device_locks,
        no_progress_s=no_progress_s,
        sandbox=sandbox,
        device_kinds=device_kinds,
    )
