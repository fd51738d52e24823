"""Launches one engine: again on another port, or with less memory, where the first try fails."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from modelium.errors import FailureKind, LoadFailed
from modelium.ports import Clock, DeviceInventory, LoadRequest, Progress
from runtimes.engines.client import EngineClient
from runtimes.engines.instance import EngineInstance
from runtimes.engines.recipe import EngineRecipe
from runtimes.engines.start import TAIL_LINES, EngineStart
from runtimes.loading.device_locks import Turn
from runtimes.process.compile_caches import CompileCaches
from runtimes.process.gpu_release import wait_for_release
from runtimes.process.ports import PortRange
from runtimes.process.supervisor import EngineProcess, Supervisor

PORT_TRIES = 3
"""Engines pick further ports themselves, and two that start at once may collide (vllm#43206)."""


class EngineLaunch:
    """Starts the engines of one `EngineRecipe` and waits until they answer."""

    def __init__(
        self,
        *,
        recipe: EngineRecipe,
        host: str,
        ports: PortRange,
        supervisor: Supervisor,
        client: EngineClient,
        clock: Clock,
        devices: DeviceInventory,
        no_progress_s: float,
        caches: CompileCaches | None,
        configuration: Mapping[str, str],
    ) -> None:
        """See `EngineHost`; ``ports`` and ``supervisor`` are the host's."""
        self._recipe = recipe
        self._host = host
        self._ports = ports
        self._supervisor = supervisor
        self._clock = clock
        self._devices = devices
        self._caches = caches
        self._configuration = configuration
        self._start = EngineStart(
            recipe=recipe,
            supervisor=supervisor,
            client=client,
            clock=clock,
            no_progress_s=no_progress_s,
        )

    async def launch(self, request: LoadRequest, progress: Progress, turn: Turn) -> EngineInstance:
        """Start; retry on another port after a port conflict, and once with less memory."""
        ports, reduced = 1, False
        while True:
            try:
                return await self._start_once(request, progress, turn, reduced=reduced)
            except LoadFailed as exc:
                lines = self._supervisor.log(request.model).tail(TAIL_LINES)
                # All parts of a model over several nodes have to have the same settings.
                smaller = None if request.span else self._recipe.smaller(request, lines)
                if exc.kind == FailureKind.PORT and ports < PORT_TRIES:
                    ports += 1
                    progress("starting again on another port", None)
                elif exc.kind == FailureKind.OUT_OF_MEMORY and smaller and not reduced:
                    request, reduced = smaller, True
                    progress("starting again with less memory", None)
                else:
                    raise

    async def _start_once(
        self, request: LoadRequest, progress: Progress, turn: Turn, *, reduced: bool
    ) -> EngineInstance:
        port, key = self._ports.reserve(), secrets.token_urlsafe(24)
        details: dict[str, Any] = {
            "runtime": self._recipe.name.value,
            "version": request.version,
            "host": self._host,
            "port": port,
            "api_key": key,
            "devices": [device.id for device in request.devices],
            "log": str(self._supervisor.log(request.model).path),
            "settings": request.settings.model_dump(mode="json", exclude_defaults=True),
            "reduced": reduced,
            "configuration": dict(self._configuration),
            "probe": list(self._recipe.probe(request) or ()),
        }
        if request.span:
            details |= {"rank": request.span.rank, "meeting": list(request.span.meeting)}
        process: EngineProcess | None = None
        try:
            command = self._recipe.command(request, host=self._host, port=port, key=key)
            if self._caches:
                own = request.model if request.allow_remote_code else None
                command = self._caches.added(command, request.devices[0], own=own)
            process = self._supervisor.start(request.model, command, details)
            instance = EngineInstance.restore(
                self._recipe.name, process, {**details, **process.to_record()}
            )
            await self._start.wait_until_ready(instance, request, progress, on_stall=turn.end)
        except BaseException:
            if process:
                # No grace: engines that get SIGTERM while they start may never exit.
                pids = self._supervisor.members(process, thorough=True)
                await self._supervisor.stop(process, grace_s=0)
                ids = [device.id for device in request.devices]
                await wait_for_release(self._devices, ids, pids, self._clock)
            self._ports.release(port)
            raise
        return instance
