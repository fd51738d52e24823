"""The Ray Serve driver: one application per model, on a local or an existing cluster.

Serve's status is the only truth: nothing is remembered about models but the loads in flight.
Applications outlive Modelium and are found again by name.
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

from modelium.config import RayServe as RayServeSection
from modelium.errors import (
    ConfigError,
    DeadlineExceeded,
    FailureKind,
    LoadFailed,
    ModeliumError,
    Unsupported,
)
from modelium.models import RuntimeName, RuntimeStatus
from modelium.ports import Clock, EngineStats, Loaded, LoadRequest, Progress, Running
from runtimes.loading.single_flight import SingleFlight
from runtimes.process import proc
from runtimes.process.sandbox import Sandbox
from runtimes.ray import serve_metrics
from runtimes.ray.application import build_application, upstream
from runtimes.ray.cluster import LocalCluster
from runtimes.ray.connection import RayConnection
from runtimes.ray.deployer import SOUND, Deployer
from runtimes.ray.failure_message import described, shorten
from runtimes.ray.member import Member
from runtimes.ray.serve_status import Node

log = logging.getLogger(__name__)

State = Literal["loading", "ready", "sleeping", "unhealthy"]

HTTP_S = 5.0
"""Deadline of one health or metrics request."""


class RayServeDriver:
    """`modelium.ports.Runtime` over Ray Serve."""

    name = RuntimeName.RAY_SERVE

    def __init__(
        self,
        *,
        config: RayServeSection,
        state_directory: Path,
        clock: Clock,
        sandbox: Sandbox | None = None,
        node: str = "",
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            config: the section ``ray_serve``.
            state_directory: Modelium's own; this driver keeps its files in ``ray`` in it.
            clock: time.
            sandbox: confines a cluster of Modelium's own.
            node: name of this node, where several may use the cluster at `ray_serve.address`.

        Raises:
            ConfigError: `ray_serve.endpoint` is not an HTTP address.
        """
        host, port = _endpoint(config)
        directory = state_directory / "ray"
        self._config = config
        self._cluster = (
            LocalCluster(directory=directory, clock=clock, sandbox=sandbox)
            if config.address is None
            else None
        )
        self._member = (
            Member(
                address=config.address, node=node, directory=directory, clock=clock, sandbox=sandbox
            )
            if config.address is not None and node
            else None
        )
        self._connection = RayConnection(
            address=config.address,
            cluster=self._cluster,
            host=host,
            port=port,
            directory=directory,
            clock=clock,
            node=node,
            member=self._member,
        )
        self._http = httpx.AsyncClient(timeout=HTTP_S, trust_env=False)
        self._deployer = Deployer(http=self._http, clock=clock)
        self._loads = SingleFlight()

    async def __aenter__(self) -> RayServeDriver:
        """Start connecting; calls wait for the connection, `status` reports how it goes."""
        self._connection.start_connecting()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect. Models keep running; a local cluster without any is ended."""
        await self._loads.cancel()
        empty, session = False, self._connection.session
        if session is not None and session.own and self._connection.intact:
            with contextlib.suppress(ModeliumError):
                empty = not (await session.status()).applications
        await self._connection.close()
        if self._cluster is not None and empty:
            await self._cluster.end()
        await self._http.aclose()

    async def end(self, *, grace_s: float) -> None:
        """See `modelium.ports.Runtime.end`; the local cluster ends with all that runs on it."""
        await self._loads.cancel()
        if await self._connection.users_serve():
            for running in await self.discover({}):
                await self.unload(running.model, handle=running.handle, grace_s=grace_s)
        await self._connection.close()
        if self._cluster is not None:
            self._cluster.adopt()
            await self._cluster.end()
        if self._member is not None:
            await self._member.end()

    async def load(self, request: LoadRequest, *, progress: Progress) -> Loaded:
        """Deploy the model and wait until Serve's proxy routes to it."""
        return await self._loads.run(
            request.model, lambda report: self._load(request, report), progress
        )

    async def unload(self, model: str, *, handle: Mapping[str, Any], grace_s: float) -> None:
        """Delete the application; its replicas are killed after ``grace_s``."""
        await self._loads.cancel(model)
        session = await self._connection.ready()
        await self._deployer.delete(session, f"{session.prefix}{model}", grace_s=grace_s)

    async def sleep(self, model: str, *, handle: Mapping[str, Any]) -> None:
        """Refuse: `status().can_sleep` is false.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("Ray Serve models cannot sleep: unload instead")

    async def wake(self, model: str, *, handle: Mapping[str, Any]) -> None:
        """Refuse: `status().can_sleep` is false.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("Ray Serve models cannot sleep: load instead")

    async def status(self) -> RuntimeStatus:
        """Return whether Serve and its proxy answer; reconnect to a lost cluster."""
        healthy, session = False, self._connection.session
        starting = self._connection.starting
        if session is None or not self._connection.intact:
            detail = self._connection.problem or "the connection to Ray was lost"
            if starting:
                detail = "Ray takes 10-20 s to start"
            self._connection.start_connecting()
        else:
            try:
                healthy = (await session.status()).proxy_healthy
                detail = "" if healthy else "Serve's HTTP proxy is down; Serve restarts it"
            except ModeliumError as exc:
                detail = str(exc)
        return RuntimeStatus(
            name=self.name,
            enabled=self._config.enabled,
            healthy=healthy,
            starting=starting,
            detail=detail,
            version=session.ray_version if session else version("ray"),
        )

    async def discover(self, handles: Mapping[str, Mapping[str, Any]]) -> Sequence[Running]:
        """Return every application of Modelium's, in whatever state it is."""
        session = await self._connection.ready()
        running = []
        for application in (await session.status()).applications.values():
            model = session.model_of(application.name)
            known = session.own or model in handles
            if not application.ours and not (application.deleting and known):
                continue
            state: State = SOUND.get(application.status, "unhealthy")
            detail = shorten(application.message) or application.status.lower()
            running.append(
                Running(
                    model=model,
                    state=state,
                    upstream=upstream(
                        model,
                        kind=application.kind,
                        host=session.host,
                        port=session.port,
                        token_path=session.token_path,
                        prefix=session.prefix,
                    ),
                    handle={"application": application.name, "digest": application.digest},
                    pids=application.pids(session.node_ip),
                    detail="" if state == "ready" else detail,
                    own=session.own and application.ours,
                )
            )
        return running

    async def check(self, model: str, *, handle: Mapping[str, Any]) -> str:
        """Return that nothing is known: no request is right for every model here."""
        return ""

    async def stats(self) -> Mapping[str, EngineStats]:
        """Return Serve's counters, from all nodes with replicas, and resident memory.

        Ray updates its counters every few seconds, so they lag by that much.
        """
        session = await self._connection.ready()
        status = await session.status()
        ours = [application for application in status.applications.values() if application.ours]
        replicas = {r.id: each.name for each in ours for r in each.replicas if r.entry}
        used = {replica.node_id for each in ours for replica in each.replicas}
        nodes = [node for node in status.nodes if node.head or node.id in used]
        texts = await asyncio.gather(*(self._scrape(node) for node in nodes))
        counted = serve_metrics.counters("\n".join(texts), replicas)
        found: dict[str, EngineStats] = {}
        for application in ours:
            pids = application.pids(session.node_ip)
            resident = await asyncio.to_thread(proc.resident_bytes, pids)
            stats = counted.get(application.name, EngineStats())
            model = session.model_of(application.name)
            found[model] = dataclasses.replace(stats, resident_bytes=resident or None)
        return found

    async def _load(self, request: LoadRequest, progress: Progress) -> Loaded:
        try:
            async with asyncio.timeout(request.deadline_s):
                return await self._deploy(request, progress)
        except TimeoutError as exc:
            raise DeadlineExceeded(
                f"{request.model} was not ready within {request.deadline_s:.0f} s on Ray Serve"
            ) from exc

    async def _deploy(self, request: LoadRequest, progress: Progress) -> Loaded:
        progress("starting", None)
        session = await self._connection.ready()
        application = build_application(
            request,
            python=self._config.python,
            cpus=os.cpu_count() or 1,
            node_ip=None if session.own else session.node_ip,
            health_timeout_s=self._config.unhealthy_after_seconds,
            owner=session.owner,
            token_path=session.token_path,
            prefix=session.prefix,
        )
        if application.python is not None and shutil.which(application.python) is None:
            raise LoadFailed(
                f"ray_serve.python {application.python} is not a program on this machine: correct "
                "the setting",
                kind=FailureKind.ENVIRONMENT,
            )
        await self._deployer.deploy(session, application, progress)
        return Loaded(
            upstream=upstream(
                request.model,
                kind=application.spec["kind"],
                host=session.host,
                port=session.port,
                token_path=session.token_path,
                prefix=session.prefix,
            ),
            handle={"application": application.name, "digest": application.digest},
        )

    async def _scrape(self, node: Node) -> str:
        try:
            return (await self._http.get(f"http://{node.ip}:{node.metrics_port}/metrics")).text
        except httpx.HTTPError as exc:
            log.warning("cannot read the metrics of Ray node %s: %s", node.ip, described(exc))
            return ""


def _endpoint(config: RayServeSection) -> tuple[str, int]:
    """Return host and port of Serve's proxy."""
    address = urlsplit(config.endpoint)
    try:
        host, port = address.hostname, address.port
    except ValueError as exc:
        raise ConfigError(f"ray_serve.endpoint {config.endpoint!r}: {exc}") from exc
    if address.scheme != "http" or not host or port is None:
        raise ConfigError("ray_serve.endpoint must be http://HOST:PORT (port 0: any free one)")
    if config.address is not None and port == 0:
        raise ConfigError("ray_serve.endpoint needs the port of the existing cluster's proxy")
    return ("127.0.0.1" if host == "localhost" else host), port
