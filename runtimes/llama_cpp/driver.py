"""The llama.cpp driver: one `llama-server` per GGUF model, for hosts without a GPU above all."""

from __future__ import annotations

import shutil
from pathlib import Path

from modelium.config import LlamaCpp
from modelium.ports import Clock, DeviceInventory
from runtimes.engines.driver import EngineDriver
from runtimes.engines.start import NO_PROGRESS_S
from runtimes.llama_cpp.engine import LlamaEngine
from runtimes.loading.device_turns import DeviceTurns


def llama_driver(
    *,
    config: LlamaCpp,
    state_directory: Path,
    clock: Clock,
    devices: DeviceInventory,
    turns: DeviceTurns | None = None,
    no_progress_s: float = NO_PROGRESS_S,
) -> EngineDriver:
    """`modelium.ports.Runtime` over llama.cpp's own server; its models cannot sleep.

    See `EngineDriver` for the arguments.
    """
    executable = shutil.which(config.executable) or config.executable
    return EngineDriver(
        config=config,
        recipe=LlamaEngine(config=config, executable=executable),
        state_directory=state_directory,
        clock=clock,
        devices=devices,
        turns=turns,
        no_progress_s=no_progress_s,
    )
