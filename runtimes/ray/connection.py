"""The connection to a Ray cluster: opened on demand, reopened when it is lost."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelium.errors import ConfigError, ModeliumError, Unavailable
from modelium.ports import Clock
from runtimes.ray import running_serve, serve_status
from runtimes.ray.client import CONNECT_S, RayClient, RayError, unconfined
from runtimes.ray.cluster import LocalCluster
from runtimes.ray.cluster_record import ClusterRecord
from runtimes.ray.failure_message import described
from runtimes.ray.member import Member

log = logging.getLogger(__name__)

BACKOFF_S = (2.0, 60.0)
"""First and longest pause after a failed attempt to connect; a start takes 10-20 s of CPU."""
ATTEMPTS = 3
"""Failed attempts in a row after which a silent local cluster is ended."""
REACH_S = 5.0
"""Deadline of connecting to the head of an existing cluster."""
PROXY_S = 30.0
"""How long Serve's proxy may take to become healthy; 2-6 s in practice."""


HEAD_ONLY, EVERY_NODE = "HeadOnly", "EveryNode"
"""Where Serve runs HTTP proxies: an own cluster has one node; on others, each node with a replica
has one, so that requests stay on the node."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """A working connection."""

    client: RayClient
    host: str
    port: int
    """Port of Serve's HTTP proxy."""
    node_ip: str
    """Address of this machine in the cluster."""
    ray_version: str
    own: bool
    """Whether the cluster is Modelium's own, so that it may be ended."""
    owner: str
    """Identifies this Modelium among the deployers of applications."""
    token_path: Path | None
    """The token of Modelium's own cluster, which the keys of its replicas derive from."""
    prefix: str = ""
    """Of this node's applications on a cluster that other nodes use too."""

    def model_of(self, application: str) -> str:
        """Return the model that an application of this node is named after."""
        return application.removeprefix(self.prefix)

    async def status(self) -> serve_status.ServeStatus:
        """Return what Serve reports now.

        Raises:
            Unavailable: Serve's controller does not answer.
        """
        try:
            document = await self.client.call("status")
            return serve_status.parse(document, owner=self.owner, node_ip=self.node_ip)
        except RayError as exc:
            raise Unavailable(f"Serve's controller does not answer: {described(exc)}") from exc


@dataclass(frozen=True, kw_only=True)
class _Target:
    """The cluster to connect to."""

    address: str
    port: int
    environment: dict[str, str]
    own: bool


class RayConnection:
    """Keeps one `Session` and, if the cluster is Modelium's own, that cluster."""

    def __init__(
        self,
        *,
        address: str | None,
        cluster: LocalCluster | None,
        host: str,
        port: int,
        directory: Path,
        clock: Clock,
        node: str = "",
        member: Member | None = None,
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            address: GCS of the cluster to use.
            cluster: without ``address``: Modelium's own, which is used unless a Serve of a user
                answers at ``host`` and ``port``.
            host: of Serve's HTTP proxy.
            port: of Serve's HTTP proxy; 0: any.
            directory: keeps the log; its path identifies this Modelium on the cluster.
            clock: time.
            node: name of this node, where several may use the cluster at ``address``.
            member: starts this node's raylet of that cluster.
        """
        self._member = member
        self._prefix = f"{node}." if node and address else ""
        self._address = address
        self._cluster = cluster
        self._host = host
        self._port = port
        self._directory = directory
        self._owner = hashlib.sha256(f"{self._prefix}{directory.absolute()}".encode()).hexdigest()[
            :16
        ]
        self._clock = clock
        self._lock = asyncio.Lock()
        self._background: asyncio.Task[Session] | None = None
        self._failures = 0
        self._not_before = 0.0
        self._users = False
        """Whether the user's Serve was found at the endpoint: its place is not taken while it is
        being restarted."""
        self.session: Session | None = None
        """The last working one; it may be lost by now."""
        self.problem = "not connected yet"
        """Why there is none: why the last attempt failed, also during the next."""
        self._warned = ""

    @property
    def starting(self) -> bool:
        """Whether the first attempt to connect is in progress."""
        waits = self._background is not None and not self._background.done()
        return waits and self.session is None and not self._failures

    @property
    def intact(self) -> bool:
        """Whether the session works as far as its processes show; makes no calls."""
        return self.session is not None and self.session.client.alive and self._cluster_alive()

    def start_connecting(self) -> None:
        """Connect in the background, unless an attempt is in progress."""
        if self._background is None or self._background.done():
            self._background = asyncio.create_task(self.ready(), name="ray-connect")
            self._background.add_done_callback(self._log_failure)

    async def ready(self) -> Session:
        """Return the session; connect, and start the local cluster, if there is none.

        Raises:
            Unavailable: the cluster cannot be reached. No new attempt is made until
                ``retry_after_s`` has passed.
        """
        async with self._lock:
            if self.session is not None:
                if self.intact:
                    return self.session
                log.warning("the connection to Ray was lost: connecting again")
                await self._disconnect()
            wait = self._not_before - self._clock.monotonic()
            if wait > 0:
                raise Unavailable(f"Ray Serve is down: {self.problem}", retry_after_s=wait)
            if not self._failures:
                self.problem = "starting"
            try:
                self.session = await self._connect()
            except (ModeliumError, OSError) as exc:
                self.problem = described(exc)
                pause = min(BACKOFF_S[0] * 2 ** min(self._failures, 8), BACKOFF_S[1])
                self._failures += 1
                self._not_before = self._clock.monotonic() + pause
                if self._cluster is not None and self._failures % ATTEMPTS == 0:
                    await self._cluster.end()
                raise Unavailable(
                    f"Ray Serve cannot be reached: {self.problem}", retry_after_s=pause
                ) from exc
            self._failures, self.problem, self._warned = 0, "", ""
            return self.session

    async def close(self) -> None:
        """Disconnect; clusters and applications keep running."""
        if self._background is not None:
            self._background.cancel()
            await asyncio.gather(self._background, return_exceptions=True)
        async with self._lock:
            await self._disconnect()

    async def users_serve(self) -> bool:
        """Whether the cluster is a user's; starts nothing."""
        if self._cluster is None:
            return True
        self._cluster.adopt()
        if self._port == 0 or self._cluster.alive():
            return False  # its own, even if of another version or with a proxy elsewhere
        try:
            return await running_serve.find(self._host, self._port) is not None
        except ConfigError:
            return False

    def _cluster_alive(self) -> bool:
        """Nothing is known of an existing cluster; its calls end at their deadlines."""
        if self._member is not None:
            return self._member.alive()
        return self._cluster is None or self._users or self._cluster.alive()

    async def _disconnect(self) -> None:
        if self.session is not None:
            await self.session.client.close()
            self.session = None

    async def _connect(self) -> Session:
        target = await self._target()
        client = RayClient(
            environment=target.environment,
            directory=self._directory,
            cluster_alive=self._cluster_alive,
            confined=self._cluster.confined if self._cluster and target.own else unconfined,
        )
        try:
            await client.start()
            found = await client.call(
                "connect",
                timeout_s=CONNECT_S,
                address=target.address,
                host=self._host,
                port=target.port,
                location=HEAD_ONLY if target.own else EVERY_NODE,
            )
            if found["port"] != target.port:
                raise ConfigError(
                    f"Ray Serve of the cluster at {target.address} listens on port "
                    f"{found['port']}: set ray_serve.endpoint to it"
                )
            await self._check_proxies(client, found)
            session = Session(
                client=client,
                host=self._host,
                port=target.port,
                node_ip=found["node_ip"],
                ray_version=found["version"],
                own=target.own,
                owner=self._owner,
                token_path=self._cluster.token_path if self._cluster and target.own else None,
                prefix=self._prefix,
            )
            await self._wait_for_proxy(session)
        except BaseException:
            await client.close()
            raise
        return session

    async def _target(self) -> _Target:
        """Return the cluster to connect to; start Modelium's own where it has to be that one."""
        environment = dict(os.environ)
        if self._cluster is None:
            address = self._address or ""
            await self._check_reachable(address)
            if self._member is not None:
                await self._member.ensure()
            return _Target(address=address, port=self._port, environment=environment, own=False)
        record = self._adopted(self._cluster)
        if record is None:
            await self._cluster.end()  # before the probe: its proxy may outlive its head
            users = await running_serve.find(self._host, self._port) if self._port else None
            if users is not None:
                log.info("using the Ray Serve that runs at %s:%d", self._host, self._port)
                self._users = True
                return _Target(
                    address=users.address,
                    port=self._port,
                    environment={**users.authentication, **environment},
                    own=False,
                )
            if self._users:
                raise Unavailable(
                    f"the Ray Serve at {self._host}:{self._port} has stopped: start it again, or "
                    "restart Modelium for a cluster of its own"
                )
            record = await self._cluster.start(proxy_host=self._host, proxy_port=self._port)
        return _Target(
            address=record.address,
            port=record.proxy_port,
            environment=self._cluster.environment(),
            own=True,
        )

    def _adopted(self, cluster: LocalCluster) -> ClusterRecord | None:
        """Return Modelium's own cluster if it runs and its proxy listens at the endpoint.

        Serve cannot move a proxy to another address.
        """
        record = cluster.record if cluster.adopt() else None
        if record is None or record.proxy_host != self._host:
            return None
        return record if self._port in (0, record.proxy_port) else None

    async def _check_reachable(self, address: str) -> None:
        """Raise `Unavailable` if nothing listens there: Ray itself would try for minutes."""
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(REACH_S):
                _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
        except (OSError, ValueError) as exc:
            raise Unavailable(
                f"no Ray cluster answers at ray_serve.address {address!r}: start it, or remove "
                "the setting for a local cluster"
            ) from exc

    async def _check_proxies(self, client: RayClient, found: Mapping[str, Any]) -> None:
        """Raise `ConfigError` where the Serve that runs gives this node no HTTP proxy."""
        if found["location"] == EVERY_NODE or not self._address:
            return
        nodes = serve_status.parse(await client.call("status")).nodes
        if not any(node.head and node.ip == found["node_ip"] for node in nodes):
            raise ConfigError(
                f"Ray Serve of the cluster at {self._address} has no HTTP proxy on this machine: "
                "start it with `serve start --proxy-location EveryNode`, or have Modelium start it"
            )

    async def _wait_for_proxy(self, session: Session) -> None:
        """Wait until Serve's HTTP proxy is healthy; Serve restarts one that fails."""
        started = self._clock.monotonic()
        while not (await session.status()).proxy_healthy:
            if self._clock.monotonic() - started > PROXY_S:
                raise Unavailable(
                    f"Serve's HTTP proxy did not start at {session.host}:{session.port}: "
                    "see proxy_*.log in Ray's session folder"
                )
            await self._clock.sleep(0.2)

    def _log_failure(self, task: asyncio.Task[Session]) -> None:
        """Log a failed background attempt, once while its reason is the same."""
        if not task.cancelled() and (error := task.exception()) is not None:
            reason = self.problem if isinstance(error, Unavailable) else str(error)
            if reason != self._warned:
                log.warning("%s", error)
            self._warned = reason
