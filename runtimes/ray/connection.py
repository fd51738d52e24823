"""The connection to a Ray cluster: made when it is needed, made anew when it is lost."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from modelium.errors import ModeliumError, Unavailable
from modelium.ports import Clock
from runtimes.ray import details
from runtimes.ray.bridge import CONNECT_S, BridgeError, RayBridge
from runtimes.ray.cluster import ClusterRecord, LocalCluster
from runtimes.ray.failure import shorten

log = logging.getLogger(__name__)

BACKOFF_S = (2.0, 60.0)
"""First and longest pause between two attempts to connect (a start costs 10-20 s of CPU)."""
PATIENCE = 3
"""Failed attempts in a row after which a local cluster that lives but does not answer is ended:
its models cannot be managed any more."""
REACH_S = 5.0
"""Deadline of an attempt to reach the head of an existing cluster."""
PROXY_S = 30.0
"""How long Serve's proxy may take to listen; it takes 2-6 s."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """A connection that works."""

    bridge: RayBridge
    host: str
    port: int
    """Where Serve's HTTP proxy listens."""
    node_ip: str
    """This machine, as Ray calls it."""
    ray_version: str

    async def details(self) -> details.Details:
        """What Serve says now.

        Raises:
            Unavailable: its controller does not answer.
        """
        try:
            return details.read(await self.bridge.call("details"))
        except BridgeError as exc:
            raise Unavailable(f"Serve's controller does not answer: {shorten(str(exc))}") from exc


class RayConnection:
    """Keeps one `Session`, and the local cluster below it where there is one."""

    def __init__(
        self,
        *,
        address: str | None,
        cluster: LocalCluster | None,
        host: str,
        port: int,
        directory: Path,
        clock: Clock,
    ) -> None:
        """Either ``address`` of an existing cluster, or a ``cluster`` of our own."""
        self._address = address
        self._cluster = cluster
        self._host = host
        self._port = port
        self._directory = directory
        self._clock = clock
        self._lock = asyncio.Lock()
        self._background: asyncio.Task[Session] | None = None
        self._failures = 0
        self._not_before = 0.0
        self.session: Session | None = None
        """The last one that worked; it may have been lost since."""
        self.problem = "not connected yet"

    @property
    def intact(self) -> bool:
        """Whether there is a session and nothing is known against it. Looks at processes only."""
        return self.session is not None and self.session.bridge.alive and self._cluster_lives()

    def soon(self) -> None:
        """Connect in the background, unless that is going on."""
        if self._background is None or self._background.done():
            self._background = asyncio.create_task(self.ready(), name="ray-connect")
            self._background.add_done_callback(_heard)

    async def ready(self) -> Session:
        """A session, connecting (and starting the local cluster) where there is none.

        Raises:
            Unavailable: it cannot be had now; after a failure no new attempt is made for a while.
        """
        async with self._lock:
            if self.session is not None:
                if self.intact:
                    return self.session
                log.warning("the connection to Ray was lost: connecting again")
                await self._drop()
            wait = self._not_before - self._clock.monotonic()
            if wait > 0:
                raise Unavailable(f"Ray Serve is down: {self.problem}", retry_after_s=wait)
            self.problem = "starting"
            try:
                self.session = await self._connect()
            except (ModeliumError, OSError) as exc:
                self.problem = shorten(str(exc)) or type(exc).__name__
                pause = min(BACKOFF_S[0] * 2 ** min(self._failures, 8), BACKOFF_S[1])
                self._failures += 1
                self._not_before = self._clock.monotonic() + pause
                if self._cluster is not None and self._failures % PATIENCE == 0:
                    await self._cluster.end()
                raise Unavailable(
                    f"Ray Serve cannot be reached: {self.problem}", retry_after_s=pause
                ) from exc
            self._failures, self.problem = 0, ""
            return self.session

    async def close(self) -> None:
        """Disconnect. Clusters and applications live on."""
        if self._background is not None:
            self._background.cancel()
            await asyncio.gather(self._background, return_exceptions=True)
        async with self._lock:
            await self._drop()

    def _cluster_lives(self) -> bool:
        """Of an existing cluster nothing is known here; its calls have deadlines."""
        return self._cluster is None or self._cluster.alive()

    async def _drop(self) -> None:
        if self.session is not None:
            await self.session.bridge.close()
            self.session = None

    async def _connect(self) -> Session:
        port, address, environment = self._port, self._address or "", dict(os.environ)
        if self._cluster is not None:
            record = self._cluster.record if self._cluster.adopt() else None
            if record is None or not self._as_configured(record):
                record = await self._cluster.start(proxy_host=self._host, proxy_port=self._port)
            port, address = record.proxy_port, record.address
            environment = self._cluster.environment()
        else:
            await self._reachable(address)
        bridge = RayBridge(
            environment=environment, directory=self._directory, cluster_lives=self._cluster_lives
        )
        try:
            await bridge.start()
            found = await bridge.call(
                "connect", timeout_s=CONNECT_S, address=address, host=self._host, port=port
            )
            session = Session(
                bridge=bridge,
                host=self._host,
                port=port,
                node_ip=found["node_ip"],
                ray_version=found["version"],
            )
            await self._proxy_listens(session)
        except BaseException:
            await bridge.close()
            raise
        return session

    def _as_configured(self, record: ClusterRecord) -> bool:
        """Whether its proxy is where `ray_serve.endpoint` wants it; Serve cannot move one."""
        return record.proxy_host == self._host and self._port in (0, record.proxy_port)

    async def _reachable(self, address: str) -> None:
        """Raise `Unavailable` where nobody listens: Ray itself would try for minutes."""
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(REACH_S):
                _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
        except (OSError, ValueError) as exc:
            raise Unavailable(
                f"no Ray cluster answers at ray_serve.address {address!r}: start it, or leave "
                "the setting out for a local one"
            ) from exc

    async def _proxy_listens(self, session: Session) -> None:
        """Wait for Serve's HTTP proxy, which Serve starts again and again where it fails."""
        began = self._clock.monotonic()
        while not (await session.details()).proxy_healthy:
            if self._clock.monotonic() - began > PROXY_S:
                raise Unavailable(
                    f"Serve's HTTP proxy does not come up at {session.host}:{session.port}: "
                    "see proxy_*.log in Ray's session folder"
                )
            await self._clock.sleep(0.2)


def _heard(task: asyncio.Task[Session]) -> None:
    """Take the outcome of a background attempt; `RayConnection.problem` tells it on."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("%s", error)
