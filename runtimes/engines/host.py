"""Runs one engine process per model: loading, unloading, discovery and statistics."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from modelium.errors import FailureKind, LoadFailed, Unavailable
from modelium.ports import (
    Clock,
    DeviceInventory,
    EngineStats,
    Loaded,
    LoadRequest,
    Progress,
    Running,
)
from runtimes.engines.client import EngineClient
from runtimes.engines.configuration import changed
from runtimes.engines.instance import EngineInstance, State
from runtimes.engines.launch import EngineLaunch
from runtimes.engines.recipe import EngineRecipe
from runtimes.engines.sleep import EngineSleep
from runtimes.engines.span import located
from runtimes.engines.start import NO_PROGRESS_S
from runtimes.engines.vitals import EngineVitals
from runtimes.loading.device_locks import DeviceLocks
from runtimes.loading.single_flight import SingleFlight
from runtimes.process.compile_caches import CompileCaches
from runtimes.process.gpu_release import wait_for_release
from runtimes.process.patience import Patience
from runtimes.process.ports import PortRange
from runtimes.process.sandbox import Sandbox
from runtimes.process.supervisor import EngineProcess, Supervisor

logger = logging.getLogger(__name__)

TERM_GRACE_S = 10.0
"""Idle engines exit in half a second; some never do while a request is in flight."""
CHECK_S = 10.0
"""One token takes far less, but other requests may be before it."""


class EngineHost:
    """Loads, unloads, discovers and measures the engines of one `EngineRecipe`."""

    def __init__(
        self,
        *,
        recipe: EngineRecipe,
        host: str,
        base_port: int,
        directory: Path,
        clock: Clock,
        devices: DeviceInventory,
        device_locks: DeviceLocks,
        client: EngineClient,
        sleep: EngineSleep | None = None,
        no_progress_s: float = NO_PROGRESS_S,
        patience: Patience,
        caches: CompileCaches | None = None,
        configuration: Mapping[str, str] | None = None,
        sandbox: Sandbox | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            recipe: the kind of engine.
            host: address that engines listen on.
            base_port: first port that engines get.
            directory: keeps records and logs.
            clock: time.
            devices: for verifying that device memory was freed.
            device_locks: shared with the drivers that use the same devices.
            client: for the calls to engines; closed by its owner.
            sleep: how the engines sleep, if they can.
            no_progress_s: how long a start may make no progress.
            patience: with engines that do not answer.
            caches: for the kernels that the engines compile, if they do.
            configuration: fingerprint of what engines are started with.
            sandbox: confines the engines.
        """
        self._configuration = configuration or {}
        self._recipe = recipe
        self._ports = PortRange(host=host, first=base_port)
        self._supervisor = Supervisor(directory=directory, clock=clock, sandbox=sandbox)
        self._clock = clock
        self._devices = devices
        self._device_locks = device_locks
        self._client = client
        self._sleep = sleep
        self._vitals = EngineVitals(
            client=client, supervisor=self._supervisor, clock=clock, patience=patience
        )
        self._launch = EngineLaunch(
            recipe=recipe,
            host=host,
            ports=self._ports,
            supervisor=self._supervisor,
            client=client,
            clock=clock,
            devices=devices,
            no_progress_s=no_progress_s,
            caches=caches,
            configuration=self._configuration,
        )
        self._instances: dict[str, EngineInstance] = {}
        self._loads = SingleFlight()
        self._model_locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def close(self) -> None:
        """Cancel loads in flight; loaded models keep running."""
        await self._loads.cancel()

    async def end(self, grace_s: float) -> None:
        """See `modelium.ports.Runtime.end`."""
        await self._loads.cancel()
        models = sorted({*self._supervisor.records(), *self._instances})
        ended = await asyncio.gather(
            *(self.unload(model, {}, grace_s) for model in models), return_exceptions=True
        )
        if failures := [failure for failure in ended if failure is not None]:
            raise failures[0]

    async def load(self, request: LoadRequest, progress: Progress) -> Loaded:
        """See `modelium.ports.Runtime.load`."""
        return await self._loads.run(
            request.model, lambda report: self._load(request, report), progress
        )

    async def unload(self, model: str, handle: Mapping[str, Any], grace_s: float) -> None:
        """See `modelium.ports.Runtime.unload`; what a crashed engine left is cleared at once."""
        await self._loads.cancel(model)
        async with self._model_locks[model]:
            instance = self.find(model, handle)
            if instance is None:
                return
            crashed = not self._supervisor.alive(instance.process)
            if not (crashed or instance.rank or await self._is_sleeping(instance)):
                await self._client.wait_until_idle(instance.upstream, grace_s)
            async with self._device_locks.hold(instance.gpus):
                pids = self._supervisor.members(instance.process, thorough=True)
                await self._supervisor.stop(instance.process, grace_s=min(grace_s, TERM_GRACE_S))
                self._remove(instance)
                if instance.gpus and not crashed and not await self._freed(instance.gpus, pids):
                    raise Unavailable(
                        f"{model} has ended, but its memory on {', '.join(instance.gpus)} was not "
                        "freed: check with nvidia-smi which other process holds it"
                    )

    async def discover(self, handles: Mapping[str, Mapping[str, Any]]) -> Sequence[Running]:
        """See `modelium.ports.Runtime.discover`."""
        models = {*handles, *self._supervisor.records(), *self._instances}
        found = await asyncio.gather(
            *(self._observe(model, handles.get(model, {})) for model in sorted(models))
        )
        return [running for running in found if running]

    async def check(self, model: str, handle: Mapping[str, Any]) -> str:
        """See `modelium.ports.Runtime.check`: it repeats the first request of the start."""
        instance = self.find(model, handle)
        if instance is None or instance.rank or not (probe := instance.handle.get("probe")):
            return ""
        path, body = probe
        try:
            answer = await self._client.post(instance.upstream, path, body=body, timeout_s=CHECK_S)
        except httpx.HTTPError:
            return ""  # a silence is not a failure: see `discover`
        if answer.status_code != httpx.codes.INTERNAL_SERVER_ERROR:
            return ""  # it may be overloaded
        return f"{path} answers {answer.status_code}: {answer.text[:200]}"

    async def stats(self) -> Mapping[str, EngineStats]:
        """See `modelium.ports.Runtime.stats`; engines that do not answer are left out."""
        return await self._vitals.stats({n: i for n, i in self._instances.items() if not i.rank})

    def find(self, model: str, handle: Mapping[str, Any]) -> EngineInstance | None:
        """Return the engine of ``model``: adopted, recorded by an earlier run, or by ``handle``."""
        if model in self._instances:
            return self._instances[model]
        record = self._supervisor.records().get(model, {})
        for source in (record, handle):
            process = EngineProcess.from_record(model, source)
            if process and (source is record or self._supervisor.members(process, thorough=True)):
                return EngineInstance.restore(self._recipe.name, process, source)
        return None

    def outdated(self) -> dict[str, list[str]]:
        """Return model → fields of the configuration that changed since its engine started."""
        return {
            model: fields
            for model, instance in sorted(self._instances.items())
            if (fields := changed(instance.handle.get("configuration"), self._configuration))
        }

    async def _load(self, request: LoadRequest, progress: Progress) -> Loaded:
        async with self._model_locks[request.model]:
            if request.span:
                span = await asyncio.to_thread(located, request.span)
                request = replace(request, span=span)
            present = self.find(request.model, {})
            same = present and present.meeting == (request.span and request.span.meeting)
            if present and same and await self._is_healthy(present):
                if present.handle.get("version") == request.version:
                    self._adopt(present)
                    return present.loaded()
                raise LoadFailed(
                    f"version {present.handle.get('version')} of {request.model} is loaded: "
                    "unload it first",
                    kind=FailureKind.BAD_SETTINGS,
                )
            if present:  # dead, or left half-started by an earlier run
                await self._supervisor.stop(present.process, grace_s=0)
                self._remove(present)
            if any(self._device_locks.locked(device.id) for device in request.devices):
                progress("waiting for the device", None)
            async with self._device_locks.hold(device.id for device in request.devices) as turn:
                completed = self._recipe.complete(request)
                instance = await self._launch.launch(completed, progress, turn)
                self._adopt(instance)
                return instance.loaded()

    async def _observe(self, model: str, handle: Mapping[str, Any]) -> Running | None:
        instance = self.find(model, handle)
        if model in self._loads:
            pids = self._supervisor.members(instance.process) if instance else ()
            return Running(model=model, state="loading", pids=pids, own=True)
        if instance is None:
            return None
        if not self._supervisor.alive(instance.process):
            return await self._ended(instance, known=bool(handle))
        adopted = model in self._instances
        pids = self._supervisor.members(instance.process)
        problem = await self._client.problem(instance, pids)
        sleeping = not problem and await self._is_sleeping(instance)
        if not self._supervisor.alive(instance.process):  # it exited in the meantime
            return await self._ended(instance, known=bool(handle))
        if problem and not adopted:
            return instance.running("loading", pids, problem)
        self._adopt(instance)
        try:
            await self._supervisor.log(model).rotate()
        except OSError as exc:  # of this log alone
            logger.warning("%s: the log cannot be rotated: %s", model, exc)
        lost = self._vitals.is_lost(instance, pids, problem)
        state: State = "unhealthy" if lost else "sleeping" if sleeping else "ready"
        return instance.running(state, pids, problem)

    async def _ended(self, instance: EngineInstance, *, known: bool) -> Running | None:
        """Clear what an engine that has exited left; report it once to a store that has it."""
        model = instance.model
        if self._model_locks[model].locked():  # an unload or a load clears it
            return None
        async with self._model_locks[model]:
            code = self._supervisor.exit_code(instance.process)
            # Children may outlive the leader and hold the device.
            await self._supervisor.stop(instance.process, grace_s=0)
            self._remove(instance)
        status = "" if code is None else f" with status {code}"
        return instance.running("unhealthy", (), f"its engine exited{status}") if known else None

    async def _is_healthy(self, instance: EngineInstance) -> bool:
        pids = self._supervisor.members(instance.process)
        return self._supervisor.alive(instance.process) and not (
            await self._client.problem(instance, pids)
        )

    async def _is_sleeping(self, instance: EngineInstance) -> bool:
        return (
            self._sleep is not None
            and not instance.rank
            and await self._sleep.is_sleeping(instance)
        )

    async def _freed(self, devices: Sequence[str], pids: Sequence[int]) -> bool:
        return await wait_for_release(self._devices, devices, pids, self._clock)

    def _adopt(self, instance: EngineInstance) -> None:
        if instance.model not in self._instances:
            self._supervisor.remember_shared_memory(instance.process)
            if fields := changed(instance.handle.get("configuration"), self._configuration):
                logger.warning(
                    "%s was started before %s.%s changed: unload and load it to apply that",
                    instance.model,
                    self._recipe.name,
                    f", {self._recipe.name}.".join(fields),
                )
        self._instances[instance.model] = instance
        self._ports.add(instance.upstream.port)

    def _remove(self, instance: EngineInstance) -> None:
        self._instances.pop(instance.model, None)
        self._vitals.forget(instance.model)
        self._ports.release(instance.upstream.port)
