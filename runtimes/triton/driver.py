"""The Triton driver: explicit model control of one server over gRPC."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from modelium.config import Triton as TritonSection
from modelium.errors import FailureKind, LoadFailed, ModeliumError, Unavailable
from modelium.models import RuntimeName, RuntimeStatus, Upstream
from modelium.models.runtimes import TRITON
from modelium.ports import (
    Clock,
    DeviceInventory,
    EngineStats,
    Loaded,
    LoadRequest,
    Progress,
    Running,
)
from runtimes.loading.device_locks import DeviceLocks
from runtimes.loading.settings import complete
from runtimes.loading.single_flight import SingleFlight
from runtimes.process import proc
from runtimes.process.gpu_release import wait_for_release
from runtimes.process.sandbox import Sandbox
from runtimes.triton.entry import Repository
from runtimes.triton.model_control import NOT_LISTED, UNLOAD_S, ModelControl
from runtimes.triton.repository import SeparateRepository
from runtimes.triton.server import TritonServer
from runtimes.triton.shared_repository import SharedRepository


class TritonDriver:
    """`modelium.ports.Runtime` over a Triton Inference Server with explicit model control."""

    name = RuntimeName.TRITON

    def __init__(
        self,
        *,
        config: TritonSection,
        state_directory: Path,
        clock: Clock,
        devices: DeviceInventory,
        device_locks: DeviceLocks | None = None,
        models: Path | None = None,
        sandbox: Sandbox | None = None,
    ) -> None:
        """Prepare; a server of Modelium's own starts when it is first needed.

        Args:
            config: the section ``triton``.
            state_directory: Modelium's own. ``triton`` in it holds the repository, unless one is
                configured; ``triton-server`` the log and record of a server of Modelium's own.
            clock: time.
            devices: for verifying that device memory was freed.
            device_locks: shared with other drivers that use the same devices.
            models: Modelium's own repository; Triton may serve the same folder.
            sandbox: confines a server of Modelium's own.

        Raises:
            ConfigError: an address is invalid.
        """
        root = config.model_repository or state_directory / "triton"
        self._config = config
        self._repository: Repository = (
            SharedRepository(root=root)
            if models is not None and root.resolve() == models.resolve()
            else SeparateRepository(root=root)
        )
        self._server = TritonServer(
            config=config,
            repository=root,
            directory=state_directory / "triton-server",
            clock=clock,
            devices=devices,
            sandbox=sandbox,
        )
        self._control = ModelControl(server=self._server, repository=self._repository, clock=clock)
        self._clock = clock
        self._devices = devices
        self._device_locks = device_locks or DeviceLocks()
        self._loads = SingleFlight()
        self._model_locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._loaded: set[str] = set()

    async def __aenter__(self) -> TritonDriver:
        """Start a server of Modelium's own; `status` reports one that does not start."""
        if self._server.command is not None:
            with contextlib.suppress(ModeliumError):
                await self._server.ensure_running()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Cancel loads in flight and disconnect; server and models keep running."""
        await self._loads.cancel()
        await self._server.close()

    async def end(self, *, grace_s: float) -> None:
        """See `modelium.ports.Runtime.end`; a server of Modelium's own ends with its models."""
        await self._loads.cancel()
        if self._server.command is not None:
            await self._server.stop(grace_s=grace_s)
            await asyncio.to_thread(self._repository.clear)
            return
        for running in await self.discover({}):
            await self.unload(running.model, handle=running.handle, grace_s=grace_s)

    async def load(self, request: LoadRequest, *, progress: Progress) -> Loaded:
        """See `modelium.ports.Runtime.load`."""
        return await self._loads.run(
            request.model, lambda report: self._load(request, report), progress
        )

    async def unload(self, model: str, *, handle: Mapping[str, Any], grace_s: float) -> None:
        """Unload; Triton finishes requests in flight, for up to ``grace_s``.

        Raises:
            Unavailable: the server does not answer, or does not unload the model.
        """
        await self._loads.cancel(model)
        async with self._model_locks[model]:
            if self._server.command is not None and not self._server.lives:
                await asyncio.to_thread(self._repository.remove, model)
                return  # the model ended with our server
            await self._control.unload(model, within_s=grace_s + UNLOAD_S)
            self._loaded.discard(model)
            gpus = [device for device in handle.get("devices", ()) if not device.endswith("/cpu")]
            if gpus:
                await wait_for_release(self._devices, gpus, (), self._clock)

    async def sleep(self, model: str, *, handle: Mapping[str, Any]) -> None:
        """Refuse: `status().can_sleep` is false.

        Raises:
            Unavailable: always.
        """
        raise Unavailable("Triton models cannot sleep: unload instead")

    async def wake(self, model: str, *, handle: Mapping[str, Any]) -> None:
        """Do nothing: Triton models never sleep."""

    async def status(self) -> RuntimeStatus:
        """Return whether the server answers; restart a server of Modelium's own that died."""
        try:
            await self._server.ensure_running()
            metadata = await self._server.call("get_server_metadata")
        except ModeliumError as exc:
            return RuntimeStatus(
                name=self.name, enabled=self._config.enabled, healthy=False, detail=str(exc)
            )
        stuck = ", ".join(sorted(self._control.stuck))
        return RuntimeStatus(
            name=self.name,
            enabled=self._config.enabled,
            healthy=True,
            detail=f"stuck in LOADING: {stuck}; restart Triton" if stuck else "",
            version=metadata.version,
        )

    async def discover(self, handles: Mapping[str, Mapping[str, Any]]) -> Sequence[Running]:
        """See `modelium.ports.Runtime.discover`; models that others loaded are left out.

        Raises:
            Unavailable: the server runs but does not answer, so that nothing is known.
        """
        try:
            states = await self._control.states()
        except Unavailable:
            if self._server.command is None or self._server.lives:
                raise
            return []
        found = []
        for model, (state, reason) in sorted(states.items()):
            if not state:  # a folder that Triton was never asked to load
                continue
            version = await asyncio.to_thread(self._repository.version, model)
            if model in handles or version is not None:
                running = self._running(model, state, reason, handles.get(model, {}), version)
                if running:
                    found.append(running)
        return found

    async def check(self, model: str, *, handle: Mapping[str, Any]) -> str:
        """Return that nothing is known: no request is right for every model here."""
        return ""

    async def stats(self) -> Mapping[str, EngineStats]:
        """See `modelium.ports.Runtime.stats`; each load resets the counters."""
        try:
            answer = await self._server.call("get_inference_statistics")
        except ModeliumError:
            return {}
        found: dict[str, EngineStats] = {}
        for entry in answer.model_stats:
            if entry.name not in self._loaded:
                continue
            total = found.get(entry.name, EngineStats())
            last = entry.last_inference / 1000 or None
            found[entry.name] = replace(
                total,
                completed=total.completed + entry.inference_stats.success.count,
                failed=total.failed + entry.inference_stats.fail.count,
                latency_sum_s=total.latency_sum_s + entry.inference_stats.success.ns / 1e9,
                last_inference_at=max(filter(None, (total.last_inference_at, last)), default=None),
                resident_bytes=await asyncio.to_thread(self._resident_bytes, entry.name),
            )
        return found

    async def _load(self, request: LoadRequest, progress: Progress) -> Loaded:
        model = request.model
        async with self._model_locks[model]:
            progress("starting", None)
            await self._server.ensure_running()
            state, _reason = (await self._control.states()).get(model, NOT_LISTED)
            loaded = Loaded(upstream=self._upstream(model), handle=self._handle(request))
            if state == "READY" and self._repository.version(model) == request.version:
                self._loaded.add(model)
                return loaded
            if model in self._control.stuck or state == "LOADING":
                self._control.stuck.add(model)
                raise LoadFailed(
                    f"{model} is stuck in Triton's LOADING state: restart the Triton server",
                    kind=FailureKind.STUCK,
                )
            if state == "UNLOADING":  # loading now would hold both copies
                await self._control.wait_until_unloaded(model)
            settings = complete(request.settings, self._config.default_settings)
            request = replace(request, settings=settings)
            entry = await asyncio.to_thread(self._repository.add, self._numbered(request))
            async with self._device_locks.hold(device.id for device in request.devices):
                progress("loading", None)
                try:
                    await self._control.load(entry, deadline_s=request.deadline_s)
                except BaseException:
                    self._loaded.discard(model)  # an earlier version of it is gone, too
                    raise
            self._loaded.add(model)
            return loaded

    def _numbered(self, request: LoadRequest) -> LoadRequest:
        """Return ``request`` with each GPU's number in the server instead of NVML's."""
        devices = tuple(
            device.model_copy(update={"index": self._server.number_of(device)})
            if device.kind == "gpu"
            else device
            for device in request.devices
        )
        return replace(request, devices=devices)

    def _running(
        self,
        model: str,
        state: str,
        reason: str,
        handle: Mapping[str, Any],
        version: int | None,
    ) -> Running | None:
        reported: Literal["ready", "loading", "unhealthy"]
        if state == "READY":
            self._loaded.add(model)
            reported = "ready"
        elif state == "LOADING" and model in self._loads:
            reported = "loading"
        elif state == "LOADING":
            self._control.stuck.add(model)
            reported, reason = "unhealthy", "stuck in LOADING: restart the Triton server"
        else:
            return None
        return Running(
            model=model,
            state=reported,
            upstream=self._upstream(model),
            handle=dict(handle) or {"version": version},
            pids=self._server.pids_of(model),
            detail=reason,
            own=self._server.command is not None and version is not None,
        )

    def _resident_bytes(self, model: str) -> int | None:
        pids = self._server.pids_of(model)
        return proc.resident_bytes(pids) if pids else None

    def _handle(self, request: LoadRequest) -> dict[str, Any]:
        return {
            "runtime": self.name.value,
            "version": request.version,
            "endpoint": self._config.endpoint,
            "devices": [device.id for device in request.devices],
        }

    def _upstream(self, model: str) -> Upstream:
        return Upstream(
            host=self._server.doors.host,
            port=self._server.doors.port,
            socket=self._server.doors.socket,
            served_name=model,
            apis=TRITON.apis,
            api_key=self._server.doors.token(),
        )
