"""Ray Serve: one application per model, on a local cluster of Modelium's own or on an existing one.

What Serve says (`details`) is the only truth here; nothing about models is kept in memory but
the loads that are going on. Applications outlive this process and are found again by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from modelium import config as configuration
from modelium.errors import (
    ConfigError,
    DeadlineExceeded,
    FailureKind,
    LoadFailed,
    ModeliumError,
    Unavailable,
    Unsupported,
)
from modelium.models import RuntimeName, RuntimeStatus
from modelium.ports import Clock, EngineStats, Loaded, LoadRequest, Progress, Running
from runtimes.loading.single_flight import JoinedLoads
from runtimes.process import proc
from runtimes.process.stall_detector import Stillness
from runtimes.ray import metrics
from runtimes.ray.application import Application, compose, upstream
from runtimes.ray.bridge import BridgeError
from runtimes.ray.cluster import LocalCluster, started
from runtimes.ray.details import Node
from runtimes.ray.failure import classify, shorten
from runtimes.ray.session import RayConnection, Session

RunningState = Literal["loading", "ready", "sleeping", "unhealthy"]

log = logging.getLogger(__name__)

POLL_S = 0.25
"""Between two looks at an application that changes; one look costs a few milliseconds."""
GONE_S = 30.0
"""How long an application whose replicas were killed may take to disappear."""
HTTP_S = 5.0
"""Deadline of one health or metrics request."""
NO_ROOM_S = 60.0
"""A replica that Ray could not place for this long waits for resources that are not there:
Modelium has booked them, so nobody is about to free any."""
STUCK_S = 300.0
"""A replica that neither reads nor computes for this long will not load any more; a disk that
stalls (NFS) comes back sooner."""
STATES: Mapping[str, Literal["loading", "ready"]] = {
    "RUNNING": "ready",
    "DEPLOYING": "loading",
    "NOT_STARTED": "loading",
}
"""Serve's words for a sound application; every other one is unhealthy."""


class RayServe:
    """`ports.Runtime` over Ray Serve."""

    name = RuntimeName.RAY_SERVE

    def __init__(
        self, *, config: configuration.RayServe, state_directory: Path, clock: Clock
    ) -> None:
        """``state_directory``: Modelium's own; this driver keeps its files in ``ray`` below it.

        Raises:
            ConfigError: `ray_serve.endpoint` is no HTTP address.
        """
        address = urlsplit(config.endpoint)
        try:
            host, port = address.hostname, address.port
        except ValueError as exc:
            raise ConfigError(f"ray_serve.endpoint {config.endpoint!r}: {exc}") from exc
        if address.scheme != "http" or not host or port is None:
            raise ConfigError("ray_serve.endpoint must be http://HOST:PORT (port 0: a free one)")
        if config.address is not None and port == 0:
            raise ConfigError("ray_serve.endpoint needs the port of the existing cluster's proxy")
        directory = state_directory / "ray"
        self._config = config
        self._clock = clock
        self._cluster = (
            LocalCluster(directory=directory, clock=clock) if config.address is None else None
        )
        self._connection = RayConnection(
            address=config.address,
            cluster=self._cluster,
            host="127.0.0.1" if host == "localhost" else host,
            port=port,
            directory=directory,
            clock=clock,
        )
        self._http = httpx.AsyncClient(timeout=HTTP_S, trust_env=False)
        self._loads = JoinedLoads()

    async def __aenter__(self) -> RayServe:
        """Begin to connect; calls wait for it, `status` tells how it goes."""
        self._connection.soon()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect. Models live on; a local cluster without any is ended."""
        await self._loads.cancel()
        idle = False
        if self._cluster is not None and self._connection.intact:
            with contextlib.suppress(ModeliumError):
                idle = not (await (await self._connection.ready()).details()).applications
        await self._connection.close()
        if self._cluster is not None and idle:
            await self._cluster.end()
        await self._http.aclose()

    async def end(self, *, grace_s: float) -> None:
        """See `modelium.ports.Runtime.end`; the local cluster ends with all that runs on it."""
        await self._loads.cancel()
        if self._cluster is None:
            for running in await self.discover({}):
                await self.unload(running.model, handle=running.handle, grace_s=grace_s)
            return
        await self._connection.close()
        self._cluster.adopt()
        await self._cluster.end()

    # --- load and unload ------------------------------------------------------------------

    async def load(self, request: LoadRequest, *, progress: Progress) -> Loaded:
        """Deploy, and wait until Serve's proxy routes to it."""
        return await self._loads.run(
            request.model, lambda tell: self._load(request, tell), progress
        )

    async def _load(self, request: LoadRequest, tell: Progress) -> Loaded:
        try:
            async with asyncio.timeout(request.deadline_s):
                return await self._deploy(request, tell)
        except TimeoutError as exc:
            raise DeadlineExceeded(
                f"{request.model} did not answer within {request.deadline_s:.0f} s on Ray Serve"
            ) from exc

    async def _deploy(self, request: LoadRequest, tell: Progress) -> Loaded:
        tell("starting", None)
        session = await self._connection.ready()
        application = compose(
            request,
            python=self._config.python,
            cpus=os.cpu_count() or 1,
            node_ip=None if self._cluster is not None else session.node_ip,
        )
        if application.python is not None and shutil.which(application.python) is None:
            raise LoadFailed(
                f"ray_serve.python: {application.python} is no program on this machine",
                kind=FailureKind.ENVIRONMENT,
            )
        try:
            await self._apply(session, application, tell)
            await self._answering(session, application, tell)
        except BaseException:
            with contextlib.suppress(ModeliumError):
                await asyncio.shield(self._remove(session, application.name, grace_s=0.0))
            raise
        return Loaded(
            upstream=upstream(
                application.name,
                kind=application.spec["kind"],
                host=session.host,
                port=session.port,
            ),
            handle={"application": application.name, "digest": application.digest},
        )

    async def _apply(self, session: Session, application: Application, tell: Progress) -> None:
        """Deploy, unless the very same application is there already."""
        name = application.name
        present = (await session.details()).applications.get(name)
        if present is not None:
            if not (present.ours or present.leaving):
                raise LoadFailed(
                    f"the Ray cluster has an application {name!r} that is not Modelium's: "
                    "rename the model",
                    kind=FailureKind.BAD_SETTINGS,
                )
            if present.digest == application.digest and present.status in STATES:
                return
            await self._remove(session, name, grace_s=0.0)
        tell("deploying", None)
        try:
            await session.bridge.call(
                "deploy", name=name, options=application.options, spec=application.spec
            )
        except BridgeError as exc:
            raise LoadFailed(
                f"Ray Serve refused {name}: {shorten(str(exc))}", kind=FailureKind.BAD_SETTINGS
            ) from exc

    async def _answering(self, session: Session, application: Application, tell: Progress) -> None:
        name, said, placed = application.name, "", self._clock.monotonic()
        stillness = Stillness(clock=self._clock)
        while True:
            found = (await session.details()).applications.get(name)
            if found is None:
                raise LoadFailed(f"{name} was removed from Ray Serve while it was loading")
            if found.status == "RUNNING" and await self._routed(session, name):
                return
            message = shorten(found.message)
            if found.status not in STATES:
                raise LoadFailed(
                    f"Ray Serve could not load {name}: {message}", kind=classify(found.message)
                )
            if message != said:
                said = message
                tell(message or "loading", None)
            now = self._clock.monotonic()
            if any(replica.pid for replica in found.replicas):
                placed = now
            elif now - placed > NO_ROOM_S:
                raise Unavailable(f"Ray has no room for {name}: {message}")
            if stillness.seconds(found.pids(session.node_ip)) > STUCK_S:
                raise LoadFailed(
                    f"{name} hangs: its replica has done nothing for {STUCK_S:.0f} s",
                    kind=FailureKind.STUCK,
                )
            await self._clock.sleep(POLL_S)

    async def _routed(self, session: Session, name: str) -> bool:
        """Whether the proxy knows the route: it learns of new applications a moment later.

        The proxy is asked, not the model, whose counters are to count real requests only.
        """
        try:
            answer = await self._http.get(f"http://{session.host}:{session.port}/-/routes")
            return answer.status_code == 200 and f"/{name}" in answer.json()
        except (httpx.HTTPError, ValueError):
            return False

    async def unload(self, model: str, *, handle: Mapping[str, Any], grace_s: float) -> None:
        """Delete the application; its replicas are killed once ``grace_s`` is over."""
        await self._loads.cancel(model)
        await self._remove(await self._connection.ready(), model, grace_s=grace_s)

    async def _remove(self, session: Session, name: str, *, grace_s: float) -> None:
        """Delete an application of ours and wait until it and its processes are gone.

        Raises:
            DeadlineExceeded: something of it is still there.
            Unavailable: Ray does not answer.
        """
        began, killed = self._clock.monotonic(), False
        processes: dict[int, int | None] = {}
        found = (await session.details()).applications.get(name)
        if found is None or not (found.ours or found.leaving):
            return
        try:
            await session.bridge.call("delete", name=name)
            while True:
                if found is not None:
                    for pid in found.pids(session.node_ip):
                        processes.setdefault(pid, started(pid))
                elif not any(s and started(pid) == s for pid, s in processes.items()):
                    return
                waited = self._clock.monotonic() - began
                if waited > grace_s + GONE_S:
                    raise DeadlineExceeded(f"{name} is still going away in Ray Serve: try again")
                if waited >= grace_s and found is not None and not killed:
                    await session.bridge.call("kill", name=name)
                    killed = True
                await self._clock.sleep(POLL_S)
                found = (await session.details()).applications.get(name)
        except BridgeError as exc:
            raise Unavailable(f"Ray Serve could not remove {name}: {shorten(str(exc))}") from exc

    async def sleep(self, model: str, *, handle: Mapping[str, Any]) -> None:
        """Not offered: `status().can_sleep` is false."""
        raise Unsupported("Ray Serve has no sleep: unload the model instead")

    async def wake(self, model: str, *, handle: Mapping[str, Any]) -> None:
        """Not offered: `status().can_sleep` is false."""
        raise Unsupported("Ray Serve has no sleep: load the model instead")

    # --- observation ----------------------------------------------------------------------

    async def status(self) -> RuntimeStatus:
        """Whether Serve and its proxy answer. A lost cluster is started again from here."""
        healthy, session = False, self._connection.session
        if session is None or not self._connection.intact:
            detail = self._connection.problem or "the connection to Ray was lost"
            self._connection.soon()
        else:
            try:
                healthy = (await session.details()).proxy_healthy
                detail = "" if healthy else "Serve's HTTP proxy is down; Serve starts it again"
            except ModeliumError as exc:
                detail = str(exc)
        return RuntimeStatus(
            name=self.name,
            enabled=self._config.enabled,
            healthy=healthy,
            detail=detail,
            version=session.ray_version if session else version("ray"),
        )

    async def discover(self, handles: Mapping[str, Mapping[str, Any]]) -> Sequence[Running]:
        """Every application of ours, in whatever state it is."""
        session = await self._connection.ready()
        running = []
        for served in (await session.details()).applications.values():
            known = self._cluster is not None or served.name in handles
            if not served.ours and not (served.leaving and known):
                continue
            state: RunningState = STATES.get(served.status, "unhealthy")
            detail = shorten(served.message) or served.status.lower()
            running.append(
                Running(
                    model=served.name,
                    state=state,
                    upstream=upstream(
                        served.name, kind=served.kind, host=session.host, port=session.port
                    ),
                    handle={"application": served.name, "digest": served.digest},
                    pids=served.pids(session.node_ip),
                    detail="" if state == "ready" else detail,
                )
            )
        return running

    async def stats(self) -> Mapping[str, EngineStats]:
        """Serve's counters, scraped from the nodes that hold replicas, and resident memory.

        Ray brings its counters up to date every few seconds, so they lag by that much.
        """
        session = await self._connection.ready()
        details = await session.details()
        ours = [served for served in details.applications.values() if served.ours]
        replicas = {replica.id: served.name for served in ours for replica in served.replicas}
        homes = {replica.node_id for served in ours for replica in served.replicas}
        nodes = [node for node in details.nodes if node.head or node.id in homes]
        texts = await asyncio.gather(*(self._scrape(node) for node in nodes))
        counted = metrics.counters("\n".join(texts), replicas)
        found: dict[str, EngineStats] = {}
        for served in ours:
            pids = served.pids(session.node_ip)
            resident = await asyncio.to_thread(proc.resident_bytes, pids)
            stats = counted.get(served.name, EngineStats())
            found[served.name] = dataclasses.replace(stats, resident_bytes=resident or None)
        return found

    async def _scrape(self, node: Node) -> str:
        try:
            return (await self._http.get(f"http://{node.ip}:{node.metrics_port}/metrics")).text
        except httpx.HTTPError as exc:
            log.warning("metrics of ray node %s: %s", node.ip, exc)
            return ""
