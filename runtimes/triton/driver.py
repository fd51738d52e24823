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
from modelium.errors import DeadlineExceeded, FailureKind, LoadFailed, ModeliumError, Unavailable
from modelium.models import RuntimeName, RuntimeStatus, Upstream
from modelium.ports import (
    Clock,
    DeviceInventory,
    EngineStats,
    Loaded,
    LoadRequest,
    Progress,
    Running,
)
from runtimes.loading.device_turns import DeviceTurns
from runtimes.loading.failure_text import Rules, classify
from runtimes.loading.settings import complete
from runtimes.loading.single_flight import JoinedLoads
from runtimes.process import proc
from runtimes.process.gpu_release import released
from runtimes.triton.repository import TritonRepository
from runtimes.triton.server import TritonServer

POLL_S = 0.1
UNLOAD_S = 60.0
"""Beyond the grace for requests in flight: unloading took 1.3 s, large models take longer."""
ABORT_S = 30.0
"""How long a given-up load may go on in the server before the model counts as stuck."""

FAILURES: Rules = (
    (
        FailureKind.UNSUPPORTED,
        r"unable to find backend|unable to find '.*' for model|backend .* (?:is )?not|"
        r"unexpected platform|must specify .*(?:backend|platform)",
    ),
    (FailureKind.ENVIRONMENT, r"stub process|ModuleNotFoundError|shared library"),
    (
        FailureKind.BAD_SETTINGS,
        r"instance group .* (?:no GPUs|KIND_GPU|invalid)|KIND_GPU|no GPUs are available",
    ),
    (
        FailureKind.BAD_FILES,
        r"failed to poll|at least one version|protobuf|INVALID_GRAPH|failed:|No such file|"
        r"unexpected (?:inference )?(?:input|output)|configuration (?:expects|supports)|error",
    ),
)


class Triton:
    """`modelium.ports.Runtime` over a Triton Inference Server with explicit model control."""

    name = RuntimeName.TRITON

    def __init__(
        self,
        *,
        config: TritonSection,
        state_directory: Path,
        clock: Clock,
        devices: DeviceInventory,
        turns: DeviceTurns | None = None,
    ) -> None:
        """Prepare; a server of our own is started when it is first needed.

        Args:
            config: the section ``triton``.
            state_directory: Modelium's own; ``triton`` below it holds the repository (unless
                configured elsewhere), ``triton-server`` the log and record of a server of ours.
            clock: time.
            devices: for verifying that device memory came back.
            turns: shared with other drivers that use the same GPUs.

        Raises:
            ConfigError: an address is none.
        """
        root = config.model_repository or state_directory / "triton"
        self._config = config
        self._repository = TritonRepository(root=root)
        self._server = TritonServer(
            config=config,
            repository=root,
            directory=state_directory / "triton-server",
            clock=clock,
        )
        self._clock = clock
        self._devices = devices
        self._turns = turns or DeviceTurns()
        self._loads = JoinedLoads()
        self._turns_of_model: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._stuck: set[str] = set()
        self._ours: set[str] = set()

    async def __aenter__(self) -> Triton:
        """Start a server of our own; one that does not come up shows in `status`."""
        if self._server.command is not None:
            with contextlib.suppress(ModeliumError):
                await self._server.ensure()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End loads under way and disconnect; server and models live on."""
        await self._loads.cancel()
        await self._server.close()

    async def end(self, *, grace_s: float) -> None:
        """See `modelium.ports.Runtime.end`; a server of our own ends with all its models."""
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
            request.model, lambda tell: self._load(request, tell), progress
        )

    async def unload(self, model: str, *, handle: Mapping[str, Any], grace_s: float) -> None:
        """Unload; in-flight requests are finished by Triton, for ``grace_s`` at most.

        Raises:
            Unavailable: the server does not answer, or the model does not go.
        """
        await self._loads.cancel(model)
        async with self._turns_of_model[model]:
            if not await self._server.answers() and self._server.command is not None:
                await asyncio.to_thread(self._repository.remove, model)
                return  # our server is dead, and so is the model
            await self._drop(model, within_s=grace_s + UNLOAD_S)
            gpus = [device for device in handle.get("devices", ()) if not device.endswith("/cpu")]
            if gpus:
                await released(self._devices, gpus, (), self._clock)

    async def sleep(self, model: str, *, handle: Mapping[str, Any]) -> None:
        """Triton's models cannot sleep."""
        raise Unavailable("Triton's models cannot sleep: unload instead")

    async def wake(self, model: str, *, handle: Mapping[str, Any]) -> None:
        """Triton's models are never asleep."""

    async def status(self) -> RuntimeStatus:
        """Whether the server answers; a server of our own that died is started again."""
        try:
            await self._server.ensure()
            metadata = await self._server.ask("get_server_metadata")
        except ModeliumError as exc:
            return RuntimeStatus(
                name=self.name, enabled=self._config.enabled, healthy=False, detail=str(exc)
            )
        stuck = f"stuck in loading: {', '.join(sorted(self._stuck))}" if self._stuck else ""
        return RuntimeStatus(
            name=self.name,
            enabled=self._config.enabled,
            healthy=True,
            detail=stuck,
            version=metadata.version,
        )

    async def discover(self, handles: Mapping[str, Mapping[str, Any]]) -> Sequence[Running]:
        """See `modelium.ports.Runtime.discover`; models that others put there are not told.

        Raises:
            Unavailable: the user's server does not answer, so nothing is known.
        """
        try:
            states = await self._states()
        except Unavailable:
            if self._server.command is None:
                raise
            return []
        found = []
        for model, (state, reason) in sorted(states.items()):
            if model in handles or self._repository.owns(model):
                running = self._running(model, state, reason, handles.get(model, {}))
                if running:
                    found.append(running)
        return found

    async def stats(self) -> Mapping[str, EngineStats]:
        """See `modelium.ports.Runtime.stats`; counters restart with each load."""
        try:
            answer = await self._server.ask("get_inference_statistics")
        except ModeliumError:
            return {}
        found: dict[str, EngineStats] = {}
        for entry in answer.model_stats:
            if entry.name not in self._ours:
                continue
            seen = found.get(entry.name, EngineStats())
            last = entry.last_inference / 1000 or None
            found[entry.name] = replace(
                seen,
                completed=seen.completed + entry.inference_stats.success.count,
                failed=seen.failed + entry.inference_stats.fail.count,
                latency_sum_s=seen.latency_sum_s + entry.inference_stats.success.ns / 1e9,
                last_inference_at=max(filter(None, (seen.last_inference_at, last)), default=None),
                resident_bytes=await asyncio.to_thread(self._resident, entry.name),
            )
        return found

    async def _load(self, request: LoadRequest, progress: Progress) -> Loaded:
        model = request.model
        async with self._turns_of_model[model]:
            progress("starting", None)
            await self._server.ensure()
            state, _reason = (await self._states()).get(model, ("", ""))
            loaded = Loaded(upstream=self._upstream(model), handle=self._handle(request))
            if state == "READY" and self._repository.version(model) == request.version:
                self._ours.add(model)
                return loaded
            if model in self._stuck or state == "LOADING":
                self._stuck.add(model)
                raise LoadFailed(
                    f"{model} is stuck in Triton's LOADING, which only a restart of the server "
                    "ends",
                    kind=FailureKind.STUCK,
                )
            if state == "UNLOADING":  # loading now would hold both copies
                await self._gone(model, within_s=UNLOAD_S)
            settings = complete(request.settings, self._config.default_settings)
            request = replace(request, settings=settings)
            await asyncio.to_thread(self._repository.add, request)
            async with self._turns.hold(device.id for device in request.devices):
                progress("loading", None)
                await self._order(request)
            self._ours.add(model)
            return loaded

    async def _order(self, request: LoadRequest) -> None:
        """Have the server load it; whatever goes wrong, nothing of it stays."""
        model = request.model
        try:
            await self._server.ask("load_model", model, timeout_s=request.deadline_s)
            state, reason = (await self._states()).get(model, ("", "not in the index"))
            if state != "READY":
                raise LoadFailed(f"Triton loaded {model}, but says {state or 'nothing'}: {reason}")
        except DeadlineExceeded as exc:
            await self._abort(model)
            raise LoadFailed(
                f"Triton did not load {model} within {request.deadline_s:.0f} s",
                kind=FailureKind.STUCK,
            ) from exc
        except LoadFailed as exc:
            words = self._server.last_words() if "failed to poll" in str(exc) else ""
            await self._abort(model)
            raise LoadFailed(
                f"Triton could not load {model}: {exc}" + (f" ({words})" if words else ""),
                kind=classify([str(exc)], None, FAILURES),
            ) from exc
        except BaseException:
            await self._abort(model)
            raise

    async def _abort(self, model: str) -> None:
        try:
            await self._drop(model, within_s=ABORT_S)
        except (Unavailable, LoadFailed, DeadlineExceeded):
            if await self._server.answers():
                self._stuck.add(model)

    async def _drop(self, model: str, *, within_s: float) -> None:
        try:
            await self._server.ask("unload_model", model, timeout_s=within_s)
        except DeadlineExceeded as exc:
            self._stuck.add(model)
            raise Unavailable(f"Triton hangs over {model}: restart the server") from exc
        except LoadFailed as exc:
            raise Unavailable(f"Triton does not unload {model}: {exc}") from exc
        await self._gone(model, within_s=within_s)
        self._ours.discard(model)
        await asyncio.to_thread(self._repository.remove, model)

    async def _gone(self, model: str, *, within_s: float) -> None:
        deadline = self._clock.monotonic() + within_s
        while True:
            state, _reason = (await self._states()).get(model, ("", ""))
            if state in ("", "UNAVAILABLE"):
                return
            if self._clock.monotonic() > deadline:
                raise Unavailable(
                    f"Triton has not unloaded {model} after {within_s:.0f} s: {state}"
                )
            await self._clock.sleep(POLL_S)

    async def _states(self) -> dict[str, tuple[str, str]]:
        """Model → (state, reason), of its busiest version."""
        index = await self._server.ask("get_model_repository_index")
        order = ("", "UNAVAILABLE", "UNLOADING", "LOADING", "READY")
        found: dict[str, tuple[str, str]] = {}
        for entry in index.models:
            before = found.get(entry.name, ("", ""))
            if order.index(entry.state) >= order.index(before[0]):
                found[entry.name] = (entry.state, entry.reason)
        return found

    def _running(
        self, model: str, state: str, reason: str, handle: Mapping[str, Any]
    ) -> Running | None:
        told: Literal["ready", "loading", "unhealthy"]
        if state == "READY":
            self._ours.add(model)
            told = "ready"
        elif state == "LOADING" and model in self._loads:
            told = "loading"
        elif state == "LOADING":
            self._stuck.add(model)
            told, reason = "unhealthy", "stuck in LOADING: only a restart of Triton ends it"
        else:
            return None
        return Running(
            model=model,
            state=told,
            upstream=self._upstream(model),
            handle=dict(handle) or {"version": self._repository.version(model)},
            pids=self._server.pids_of(model),
            detail=reason,
        )

    def _resident(self, model: str) -> int | None:
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
            host=self._server.host,
            port=self._server.port,
            served_name=model,
            apis=frozenset({"kserve"}),
        )
