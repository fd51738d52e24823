"""`modelium.ports.Runtime` over one kind of engine process: what vLLM and llama.cpp share."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelium.config import LlamaCpp as LlamaCppSection
from modelium.config import Vllm as VllmSection
from modelium.errors import Unavailable
from modelium.models import RuntimeName, RuntimeStatus
from modelium.ports import (
    Clock,
    DeviceInventory,
    EngineStats,
    Loaded,
    LoadRequest,
    Progress,
    Running,
)
from runtimes.engines.host import EngineHost, Live
from runtimes.engines.recipe import Recipe
from runtimes.engines.sleep import EngineSleep
from runtimes.engines.start import NO_PROGRESS_S
from runtimes.loading.device_turns import DeviceTurns


class EngineDriver:
    """Satisfies the port; `EngineHost` does the work, the `Recipe` knows the engine."""

    def __init__(
        self,
        *,
        config: VllmSection | LlamaCppSection,
        recipe: Recipe,
        state_directory: Path,
        clock: Clock,
        devices: DeviceInventory,
        turns: DeviceTurns | None = None,
        no_progress_s: float = NO_PROGRESS_S,
        sleep: EngineSleep | None = None,
        version: Callable[[Path], str] = lambda _: "",
    ) -> None:
        """Prepare; nothing is started or read before it is entered.

        Args:
            config: the runtime's section.
            recipe: how its engines are started and read.
            state_directory: Modelium's own; records and logs are kept in a folder below it that
                is named for the runtime.
            clock: time.
            devices: for verifying that device memory came back.
            turns: shared with other drivers that use the same GPUs.
            no_progress_s: how long a start may show no sign of getting on.
            sleep: how its engines sleep, where they can.
            version: of the engine that a command starts.
        """
        self.name: RuntimeName = recipe.name
        self._config = config
        self._devices = devices
        self._executable = shutil.which(config.executable)
        self._sleep = sleep
        self._version = version
        self._host = EngineHost(
            recipe=recipe,
            host=config.host,
            base_port=config.base_port,
            directory=state_directory / recipe.name.value,
            clock=clock,
            devices=devices,
            turns=turns or DeviceTurns(),
            sleep=sleep,
            no_progress_s=no_progress_s,
        )

    async def __aenter__(self) -> EngineDriver:
        """Nothing to connect to: engines are found by `discover`."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End loads under way; loaded models live on."""
        await self._host.close()

    async def end(self, *, grace_s: float) -> None:
        """See `modelium.ports.Runtime.end`."""
        await self._host.end(grace_s)

    async def load(self, request: LoadRequest, *, progress: Progress) -> Loaded:
        """See `modelium.ports.Runtime.load`."""
        return await self._host.load(request, progress)

    async def unload(self, model: str, *, handle: Mapping[str, Any], grace_s: float) -> None:
        """See `modelium.ports.Runtime.unload`."""
        await self._host.unload(model, handle, grace_s)

    async def sleep(self, model: str, *, handle: Mapping[str, Any]) -> None:
        """See `runtimes.engines.sleep.EngineSleep.sleep`.

        Raises:
            Unavailable: it cannot sleep, is not there, is still busy, or its memory did not come
                back.
        """
        await self._sleeper().sleep(self._host, self._live(model, handle))

    async def wake(self, model: str, *, handle: Mapping[str, Any]) -> None:
        """Undo `sleep`; the caller has booked the memory again.

        Raises:
            Unavailable: it cannot sleep, is not there or did not wake.
        """
        await self._sleeper().wake(self._host, self._live(model, handle))

    async def status(self) -> RuntimeStatus:
        """Whether the command is there; its version, where its environment tells."""
        if self._executable is None:
            return RuntimeStatus(
                name=self.name,
                enabled=self._config.enabled,
                healthy=False,
                detail=f"command {self._config.executable} not found: set {self.name}.executable",
            )
        devices = await asyncio.to_thread(self._devices.snapshot)
        gpus = any(device.kind == "gpu" for device in devices)
        return RuntimeStatus(
            name=self.name,
            enabled=self._config.enabled,
            healthy=True,
            version=self._version(Path(self._executable)),
            # CPU builds sleep without giving memory back.
            can_sleep=gpus and self._sleep is not None and self._sleep.enabled,
        )

    async def discover(self, handles: Mapping[str, Mapping[str, Any]]) -> Sequence[Running]:
        """See `modelium.ports.Runtime.discover`."""
        return await self._host.discover(handles)

    async def stats(self) -> Mapping[str, EngineStats]:
        """See `modelium.ports.Runtime.stats`."""
        return await self._host.stats()

    def _sleeper(self) -> EngineSleep:
        if self._sleep is None:
            raise Unavailable(f"models of {self.name} cannot sleep: unload instead")
        return self._sleep

    def _live(self, model: str, handle: Mapping[str, Any]) -> Live:
        live = self._host.find(model, handle)
        if live is None:
            raise Unavailable(f"no engine of {model} runs: load it first")
        return live
