"""Runs one engine process per model: what vLLM and llama.cpp have in common."""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import httpx

from modelium.errors import FailureKind, LoadFailed, Unavailable
from modelium.models import Upstream
from modelium.ports import (
    Clock,
    DeviceInventory,
    EngineStats,
    Loaded,
    LoadRequest,
    Progress,
    Running,
)
from runtimes.engines.recipe import Recipe
from runtimes.engines.sleep import EngineSleep
from runtimes.engines.start import NO_PROGRESS_S, EngineStart
from runtimes.loading.device_turns import DeviceTurns
from runtimes.loading.single_flight import JoinedLoads
from runtimes.process import proc
from runtimes.process.gpu_release import released
from runtimes.process.port_range import PortRange
from runtimes.process.supervisor import Engine, Supervisor

HTTP_TIMEOUT_S = 5.0
"""Health and metrics answer in milliseconds; a busy engine may take a second."""
TERM_GRACE_S = 10.0
"""Idle engines exit in half a second; some never do while a request is in flight."""
PORT_TRIES = 3
"""Engines pick internal ports of their own, which race (vllm#43206)."""
DRAIN_POLL_S = 0.25
IDLE_LOOKS = 2
CPU_ID_SUFFIX = "/cpu"

State = Literal["loading", "ready", "sleeping", "unhealthy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """A model that this host holds."""

    engine: Engine
    upstream: Upstream
    handle: dict[str, Any]

    @property
    def devices(self) -> tuple[str, ...]:
        """Ids of the devices it was placed on."""
        return tuple(self.handle.get("devices", ()))

    @property
    def gpus(self) -> tuple[str, ...]:
        """Those of its devices whose memory has to be watched."""
        return tuple(device for device in self.devices if not device.endswith(CPU_ID_SUFFIX))


class EngineHost:
    """Loads, unloads, finds and reads engines of one `Recipe`."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        host: str,
        base_port: int,
        directory: Path,
        clock: Clock,
        devices: DeviceInventory,
        turns: DeviceTurns,
        sleep: EngineSleep | None = None,
        no_progress_s: float = NO_PROGRESS_S,
    ) -> None:
        """``directory`` keeps records and logs; ``sleep``: how its engines sleep."""
        self.client = httpx.AsyncClient(timeout=HTTP_TIMEOUT_S, trust_env=False)
        self.turns = turns
        self._recipe = recipe
        self._host = host
        self._ports = PortRange(host=host, first=base_port)
        self._supervisor = Supervisor(directory=directory, clock=clock)
        self._clock = clock
        self._devices = devices
        self._sleep = sleep
        self._start = EngineStart(
            recipe=recipe,
            supervisor=self._supervisor,
            client=self.client,
            clock=clock,
            no_progress_s=no_progress_s,
        )
        self._live: dict[str, Live] = {}
        self._loads = JoinedLoads()
        self._turns_of_model: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._last: dict[str, EngineStats] = {}

    async def close(self) -> None:
        """End loads that are under way; loaded models live on."""
        await self._loads.cancel()
        await self.client.aclose()

    async def end(self, grace_s: float) -> None:
        """See `modelium.ports.Runtime.end`."""
        await self._loads.cancel()
        models = sorted({*self._supervisor.records(), *self._live})
        ended = await asyncio.gather(
            *(self.unload(model, {}, grace_s) for model in models), return_exceptions=True
        )
        if failures := [failure for failure in ended if failure is not None]:
            raise failures[0]

    async def load(self, request: LoadRequest, progress: Progress) -> Loaded:
        """See `modelium.ports.Runtime.load`."""
        return await self._loads.run(
            request.model, lambda tell: self._load(request, tell), progress
        )

    async def unload(self, model: str, handle: Mapping[str, Any], grace_s: float) -> None:
        """See `modelium.ports.Runtime.unload`; a crashed engine's remains are cleared at once."""
        await self._loads.cancel(model)
        async with self._turns_of_model[model]:
            live = self.find(model, handle)
            if live is None:
                return
            crashed = not self._supervisor.alive(live.engine)
            if not crashed:
                await self._drain(live, grace_s)
            async with self.turns.hold(live.gpus):
                pids = self._supervisor.members(live.engine, thorough=True)
                await self._supervisor.stop(live.engine, grace_s=min(grace_s, TERM_GRACE_S))
                self._forget(model, live)
                if live.gpus and not crashed and not await self.memory_returned(live.gpus, pids):
                    raise Unavailable(
                        f"{model} has ended, but its memory on {', '.join(live.gpus)} did not "
                        "come back: look with nvidia-smi for another process that holds it"
                    )

    async def discover(self, handles: Mapping[str, Mapping[str, Any]]) -> Sequence[Running]:
        """See `modelium.ports.Runtime.discover`."""
        models = {*handles, *self._supervisor.records(), *self._live}
        found = await asyncio.gather(
            *(self._look(model, handles.get(model, {})) for model in sorted(models))
        )
        return [running for running in found if running]

    async def stats(self) -> Mapping[str, EngineStats]:
        """See `modelium.ports.Runtime.stats`; engines that do not answer are left out."""
        live = dict(self._live)
        found = await asyncio.gather(*(self._stats(model) for model in live))
        return {model: stats for model, stats in zip(live, found, strict=True) if stats}

    def find(self, model: str, handle: Mapping[str, Any]) -> Live | None:
        """The engine of ``model``: held, recorded by an earlier process, or by ``handle``."""
        if model in self._live:
            return self._live[model]
        record = self._supervisor.records().get(model, {})
        for note in (record, handle):
            engine = Engine.from_note(model, note)
            if engine and (note is record or self._supervisor.members(engine, thorough=True)):
                return Live(engine=engine, upstream=self._upstream(model, note), handle=dict(note))
        return None

    async def memory_returned(self, gpus: Sequence[str], pids: Sequence[int]) -> bool:
        """Wait for memory of ``pids`` on ``gpus`` to be free again."""
        return await released(self._devices, gpus, pids, self._clock)

    async def idle(self, live: Live, within_s: float) -> bool:
        """Wait until ``live`` has no request; False where it still has or does not tell.

        Counters lag behind requests that were just let in, so it has to be idle twice in a row.
        """
        deadline, quiet = self._clock.monotonic() + within_s, 0
        while True:
            try:
                stats = self._recipe.stats(await self._metrics(live))
            except httpx.HTTPError:
                return False
            quiet = 0 if stats.running or stats.waiting else quiet + 1
            if quiet == IDLE_LOOKS:
                return True
            if self._clock.monotonic() >= deadline:
                return False
            await self._clock.sleep(DRAIN_POLL_S)

    async def _load(self, request: LoadRequest, progress: Progress) -> Loaded:
        async with self._turns_of_model[request.model]:
            held = self.find(request.model, {})
            if held and await self._serves(held):
                if held.handle.get("version") == request.version:
                    self._adopt(held)
                    return Loaded(upstream=held.upstream, handle=held.handle)
                raise LoadFailed(
                    f"version {held.handle.get('version')} of {request.model} is loaded: "
                    "unload it first",
                    kind=FailureKind.BAD_SETTINGS,
                )
            if held:  # half-started by an earlier process, or dead
                await self._supervisor.stop(held.engine, grace_s=0)
                self._forget(request.model, held)
            if any(self.turns.taken(device.id) for device in request.devices):
                progress("waiting for the device", None)
            async with self.turns.hold(device.id for device in request.devices):
                return await self._try(self._recipe.complete(request), progress)

    async def _try(self, request: LoadRequest, progress: Progress) -> Loaded:
        """Start; on a port conflict elsewhere again, on a lack of memory once more, smaller."""
        ports, shrunk = 1, False
        while True:
            try:
                return await self._once(request, progress)
            except LoadFailed as exc:
                less = self._recipe.smaller(request)
                if exc.kind == FailureKind.PORT and ports < PORT_TRIES:
                    ports += 1
                    progress("starting again on another port", None)
                elif exc.kind == FailureKind.OUT_OF_MEMORY and less and not shrunk:
                    request, shrunk = less, True
                    progress("starting again with less memory", None)
                else:
                    raise

    async def _once(self, request: LoadRequest, progress: Progress) -> Loaded:
        port, key = self._ports.take(), secrets.token_urlsafe(24)
        notes = {
            "runtime": self._recipe.name.value,
            "version": request.version,
            "host": self._host,
            "port": port,
            "api_key": key,
            "devices": [device.id for device in request.devices],
            "log": str(self._supervisor.log(request.model).path),
            "settings": request.settings.model_dump(mode="json", exclude_defaults=True),
        }
        engine: Engine | None = None
        try:
            command = self._recipe.command(request, host=self._host, port=port, key=key)
            engine = self._supervisor.start(request.model, command, notes)
            live = Live(
                engine=engine,
                upstream=self._upstream(request.model, notes),
                handle={**notes, **engine.note()},
            )
            await self._start.ready(engine, live.upstream, request, progress)
        except BaseException:
            if engine:
                # No grace: engines that get SIGTERM while they start may never end.
                pids = self._supervisor.members(engine, thorough=True)
                await self._supervisor.stop(engine, grace_s=0)
                await self.memory_returned([d.id for d in request.devices], pids)
            self._ports.give_back(port)
            raise
        self._adopt(live)
        return Loaded(upstream=live.upstream, handle=live.handle)

    async def _look(self, model: str, handle: Mapping[str, Any]) -> Running | None:
        live = self.find(model, handle)
        if model in self._loads:
            pids = self._supervisor.members(live.engine) if live else ()
            return Running(model=model, state="loading", pids=pids)
        if live is None:
            return None
        if not self._supervisor.alive(live.engine):
            if not self._turns_of_model[model].locked():  # else it is being unloaded
                async with self._turns_of_model[model]:
                    # Its children may outlive it and hold the device.
                    await self._supervisor.stop(live.engine, grace_s=0)
                    self._forget(model, live)
            return None
        known = model in self._live
        pids = self._supervisor.members(live.engine)
        sick = await self._sickness(live, pids)
        sleeping = not sick and await self._asleep(live)
        if not self._supervisor.alive(live.engine):  # it ended while we looked
            return None
        if sick and not known:
            return self._running(live, "loading", pids, sick)
        self._adopt(live)
        self._supervisor.log(model).rotate()
        state: State = "unhealthy" if sick else "sleeping" if sleeping else "ready"
        return self._running(live, state, pids, sick)

    async def _serves(self, live: Live) -> bool:
        if not self._supervisor.alive(live.engine):
            return False
        return not await self._sickness(live, self._supervisor.members(live.engine))

    def _adopt(self, live: Live) -> None:
        if live.engine.model not in self._live:
            self._supervisor.note_shared_memory(live.engine)
        self._live[live.engine.model] = live
        self._ports.keep(live.upstream.port)

    def _running(self, live: Live, state: State, pids: tuple[int, ...], detail: str) -> Running:
        return Running(
            model=live.engine.model,
            state=state,
            upstream=live.upstream,
            handle=live.handle,
            pids=pids,
            detail=detail,
        )

    async def _sickness(self, live: Live, pids: tuple[int, ...]) -> str:
        port = live.upstream.port
        if not proc.listens(port, pids):
            return f"nothing of it listens on port {port}"
        try:
            health = await self.client.get(f"{live.upstream.base_url}/health")
        except httpx.HTTPError as exc:
            return f"/health does not answer: {type(exc).__name__}"
        return "" if health.status_code == httpx.codes.OK else f"/health says {health.status_code}"

    async def _asleep(self, live: Live) -> bool:
        return self._sleep is not None and await self._sleep.asleep(self.client, live)

    async def _drain(self, live: Live, grace_s: float) -> None:
        if await self._asleep(live):
            return
        await self.idle(live, grace_s)

    async def _stats(self, model: str) -> EngineStats | None:
        live = self._live[model]
        try:
            stats = self._recipe.stats(await self._metrics(live))
        except httpx.HTTPError:
            return None
        last = self._last.get(model, EngineStats())
        moved = stats.running or (stats.completed, stats.generated_tokens, stats.prompt_tokens) > (
            (last.completed, last.generated_tokens, last.prompt_tokens)
        )
        resident = None
        if not live.gpus:
            pids = self._supervisor.members(live.engine)
            resident = await asyncio.to_thread(proc.resident_bytes, pids)
        stats = replace(
            stats,
            last_inference_at=self._clock.time() if moved else last.last_inference_at,
            resident_bytes=resident,
        )
        if model in self._live:
            self._last[model] = stats
        return stats

    async def _metrics(self, live: Live) -> str:
        answer = await self.client.get(
            f"{live.upstream.base_url}/metrics",
            headers={"Authorization": f"Bearer {live.upstream.api_key}"},
        )
        return answer.raise_for_status().text

    def _upstream(self, model: str, note: Mapping[str, Any]) -> Upstream:
        return Upstream(
            host=str(note["host"]),
            port=int(note["port"]),
            served_name=model,
            apis=self._recipe.apis,
            api_key=note.get("api_key"),
        )

    def _forget(self, model: str, live: Live) -> None:
        self._live.pop(model, None)
        self._last.pop(model, None)
        self._ports.give_back(live.upstream.port)
