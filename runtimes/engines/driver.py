"""`modelium.ports.Runtime` over engine processes of one kind: what vLLM and llama.cpp share."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelium.config import LlamaCpp as LlamaCppSection
from modelium.config import Vllm as VllmSection
from modelium.errors import Unavailable
from modelium.models import DeviceKind, RuntimeName, RuntimeStatus
from modelium.models.runtimes import RUNTIMES
from modelium.ports import (
    Clock,
    DeviceInventory,
    EngineStats,
    Loaded,
    LoadRequest,
    Progress,
    Running,
)
from runtimes.engines.client import TIMEOUT_S, EngineClient
from runtimes.engines.configuration import fingerprint
from runtimes.engines.host import EngineHost
from runtimes.engines.instance import EngineInstance
from runtimes.engines.recipe import EngineRecipe
from runtimes.engines.sleep import EngineSleep
from runtimes.engines.start import NO_PROGRESS_S
from runtimes.loading.device_locks import DeviceLocks
from runtimes.process.compile_caches import CompileCaches
from runtimes.process.patience import STRIKES, Patience
from runtimes.process.sandbox import Sandbox

KindsOf = Callable[[Path], Awaitable[frozenset[DeviceKind] | None]]


class EngineDriver:
    """Adds sleep and status to an `EngineHost`; the `EngineRecipe` supplies the engine's part."""

    def __init__(
        self,
        *,
        config: VllmSection | LlamaCppSection,
        recipe: EngineRecipe,
        state_directory: Path,
        clock: Clock,
        devices: DeviceInventory,
        device_locks: DeviceLocks | None = None,
        no_progress_s: float = NO_PROGRESS_S,
        sleep_enabled: bool = False,
        version: Callable[[Path], str] = lambda _: "",
        device_kinds: KindsOf | None = None,
        compiles: bool = False,
        sandbox: Sandbox | None = None,
    ) -> None:
        """Prepare; nothing is started or read yet.

        Args:
            config: the runtime's section of the configuration.
            recipe: how its engines are started and read.
            state_directory: Modelium's own. Records and logs go into a folder in it that is named
                after the runtime.
            clock: time.
            devices: for verifying that device memory was freed.
            device_locks: shared with other drivers that use the same devices.
            no_progress_s: how long a start may make no progress.
            sleep_enabled: whether engines are started so that they can sleep.
            version: returns the version of the engine that a command starts.
            device_kinds: asks a command which devices it can use, once; default: GPUs where
                there are any.
            compiles: whether engines compile kernels, to be kept for the next start.
            sandbox: confines the engines.
        """
        self.name: RuntimeName = recipe.name
        self._config = config
        self._recipe = recipe
        self._devices = devices
        self._executable = shutil.which(config.executable)
        self._version = version
        self._device_kinds = device_kinds
        self._kinds: frozenset[DeviceKind] | None = None
        device_locks = device_locks or DeviceLocks()
        limit_s = config.unhealthy_after_seconds
        self._client = EngineClient(
            recipe=recipe, clock=clock, timeout_s=min(TIMEOUT_S, limit_s / STRIKES)
        )
        self._sleep: EngineSleep | None = None
        if RUNTIMES[recipe.name].can_sleep:
            self._sleep = EngineSleep(
                enabled=sleep_enabled,
                client=self._client,
                device_locks=device_locks,
                devices=devices,
                clock=clock,
            )
        self._host = EngineHost(
            recipe=recipe,
            host=config.host,
            base_port=config.base_port,
            directory=state_directory / recipe.name.value,
            clock=clock,
            devices=devices,
            device_locks=device_locks,
            client=self._client,
            sleep=self._sleep,
            no_progress_s=no_progress_s,
            patience=Patience(limit_s=limit_s),
            caches=CompileCaches(
                root=state_directory / recipe.name.value / "caches", build=self._build()
            )
            if compiles
            else None,
            configuration=fingerprint(config),
            sandbox=sandbox,
        )

    async def __aenter__(self) -> EngineDriver:
        """Connect to nothing: `discover` finds the engines."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Cancel loads in flight; loaded models keep running."""
        await self._host.close()
        await self._client.close()

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
            Unavailable: it cannot sleep, is not loaded, is still busy, or did not free its memory.
        """
        await self._sleeper().sleep(self._instance(model, handle))

    async def wake(self, model: str, *, handle: Mapping[str, Any]) -> None:
        """Undo `sleep`; the caller has booked the memory again.

        Raises:
            Unavailable: it cannot sleep, is not loaded or did not wake.
        """
        await self._sleeper().wake(self._instance(model, handle))

    async def status(self) -> RuntimeStatus:
        """Return whether the command exists, and its version if the environment shows it."""
        if self._executable is None:
            return RuntimeStatus(
                name=self.name,
                enabled=self._config.enabled,
                healthy=False,
                detail=f"command {self._config.executable} not found: set {self.name}.executable",
            )
        devices = await asyncio.to_thread(self._devices.snapshot)
        gpus = any(device.kind == "gpu" for device in devices)
        kinds = await self._usable(self._executable, gpus=gpus)
        useless = bool(devices) and not any(device.kind in kinds for device in devices)
        return RuntimeStatus(
            name=self.name,
            enabled=self._config.enabled,
            healthy=not useless,
            detail=f"{self._executable} cannot use GPUs, and devices.cpu_beside_gpus is off"
            if useless
            else self._outdated(),
            device_kinds=kinds,
            spans_nodes=self._recipe.spans_nodes,
            version=self._version(Path(self._executable)),
            # CPU builds sleep without freeing memory.
            can_sleep=gpus and self._sleep is not None and self._sleep.enabled,
        )

    def _outdated(self) -> str:
        """Say which models run with a configuration that has changed since; empty: none."""
        outdated = self._host.outdated()
        fields = sorted({f"{self.name}.{name}" for names in outdated.values() for name in names})
        if not outdated:
            return ""
        return (
            f"{', '.join(fields)} changed since {', '.join(outdated)} started: unload and load "
            "again to apply it"
        )

    async def _usable(self, executable: str, *, gpus: bool) -> frozenset[DeviceKind]:
        if not gpus:
            return frozenset({"cpu"})
        if self._kinds is None and self._device_kinds is not None:
            self._kinds = await self._device_kinds(Path(executable)) or frozenset({"gpu"})
        return self._kinds or frozenset({"gpu"})

    async def discover(self, handles: Mapping[str, Mapping[str, Any]]) -> Sequence[Running]:
        """See `modelium.ports.Runtime.discover`."""
        return await self._host.discover(handles)

    async def check(self, model: str, *, handle: Mapping[str, Any]) -> str:
        """See `modelium.ports.Runtime.check`."""
        return await self._host.check(model, handle)

    async def stats(self) -> Mapping[str, EngineStats]:
        """See `modelium.ports.Runtime.stats`."""
        return await self._host.stats()

    def _build(self) -> str:
        """Return what tells the installed engine from another build of it."""
        if self._executable is None:
            return self._config.executable
        path = Path(self._executable).resolve()
        return f"{path} {self._version(path)}"

    def _sleeper(self) -> EngineSleep:
        if self._sleep is None:
            raise Unavailable(f"{RUNTIMES[self.name].label} models cannot sleep: unload instead")
        return self._sleep

    def _instance(self, model: str, handle: Mapping[str, Any]) -> EngineInstance:
        instance = self._host.find(model, handle)
        if instance is None:
            raise Unavailable(f"no engine of {model} is running: load it first")
        return instance
