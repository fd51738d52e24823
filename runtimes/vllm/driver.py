"""The vLLM driver: one server process per model, each with its own port and key."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from modelium.config import Vllm
from modelium.ports import Clock, DeviceInventory
from runtimes.engines.driver import EngineDriver
from runtimes.engines.start import NO_PROGRESS_S
from runtimes.loading.device_locks import DeviceLocks
from runtimes.process.sandbox import Sandbox
from runtimes.vllm.installation import installed
from runtimes.vllm.recipe import VllmRecipe


def vllm_driver(
    *,
    config: Vllm,
    state_directory: Path,
    clock: Clock,
    devices: DeviceInventory,
    device_locks: DeviceLocks | None = None,
    no_progress_s: float = NO_PROGRESS_S,
    sandbox: Sandbox | None = None,
) -> EngineDriver:
    """Return a driver that runs the `vllm` command of vLLM's own environment.

    See `EngineDriver` for the arguments.
    """
    executable = shutil.which(config.executable) or config.executable
    recipe = VllmRecipe(
        config=config,
        executable=executable,
        installation=partial(installed, Path(executable)),
    )
    return EngineDriver(
        config=config,
        recipe=recipe,
        state_directory=state_directory,
        clock=clock,
        devices=devices,
        device_locks=device_locks,
        no_progress_s=no_progress_s,
        sandbox=sandbox,
        sleep_enabled=recipe.sleeps,
        version=_version,
        compiles=True,
    )


def _version(executable: Path) -> str:
    """Read the version from the environment's metadata: `vllm --version` takes ten seconds."""
    return installed(executable).version
