"""A node among the others: its heartbeat, and what waits at its gateway."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from pathlib import Path

from modelium import __version__, private
from modelium.errors import InputError, ModeliumError
from modelium.models import MIB, NodeReport, RuntimeStatus, Traffic
from modelium.models.nodes import SECRET_PREFIX
from modelium.stages.services import Services
from modelium.store.nodes import digest

logger = logging.getLogger(__name__)

BEAT_S = 5.0
"""Between two heartbeats: three may be lost before a node counts as silent."""

PUBLISH_S = 2.0
"""Between two writes of what waits here, for the node that plans."""

FILE = "node.key"


def node_secret(state: Path) -> str:
    """Return the secret by which the store and other nodes know this machine; made at first."""
    file = state / FILE
    found = file.read_text().strip() if file.exists() else ""
    if not found:  # also where a full disk, or a crash, has left it empty
        found = f"{SECRET_PREFIX}{secrets.token_urlsafe(32)}"
        try:
            private.write(file, f"{found}\n")
        except OSError as exc:
            raise InputError(f"{file} cannot be written ({exc.strerror}): make room there") from exc
    return found


class Membership:
    """Says that this node is there, and how it is, until cancelled."""

    def __init__(self, *, services: Services, secret: str) -> None:
        """``secret``: of `node_secret`."""
        self._services = services
        self._identity = digest(secret)
        self._published: dict[str, Traffic] = {}
        self._settled = False

    async def join(self, token: str | None) -> None:
        """Join the nodes of the store, or come back.

        Raises:
            InputError: another machine has the name, or a token is missing or not valid.
        """
        services = self._services
        sent = services.clock.monotonic()
        new = await services.store.nodes.join(
            services.node, identity=self._identity, token=token, report=await self._report()
        )
        services.heartbeat.note(sent)
        await services.store.history.adopt_traffic()
        if new:
            await services.store.events.append("node.joined", node=services.node)

    async def settle(self) -> None:
        """Say that this node has compared the store with its engines, and takes models."""
        self._settled = True
        await self._try()

    async def leave(self) -> None:
        """Say that this node stops, so that nothing is placed on it any more."""
        self._settled = False
        with suppress(ModeliumError):
            await self.beat()

    async def run(self) -> None:
        """Send heartbeats until cancelled."""
        while True:
            await self._try()
            await self._services.clock.sleep(BEAT_S)

    async def _try(self) -> None:
        """Send a heartbeat; one that the store does not take is followed by another."""
        try:
            await self.beat()
        except ModeliumError as exc:
            logger.warning("the store did not take this node's heartbeat: %s", exc)

    async def beat(self) -> None:
        """Send one heartbeat."""
        services = self._services
        report = await self._report()
        sent = services.clock.monotonic()
        taken = await services.store.nodes.beat(
            services.node, identity=self._identity, report=report
        )
        if taken:
            services.heartbeat.note(sent)
        else:
            await asyncio.to_thread(services.store.blocking.planner.resign)
            logger.error(
                "%s was removed from the nodes of this store: it plans and begins nothing any "
                "more; stop it, or let it join again with a token",
                services.node,
            )

    async def publish(self) -> None:
        """Store what waits at this node's gateway, in intervals until cancelled."""
        services = self._services
        while True:
            await services.clock.sleep(PUBLISH_S)
            seen = await asyncio.to_thread(services.switchboard.traffic.snapshot)
            fresh = {name: one for name, one in seen.items() if self._is_news(name, one)}
            if not fresh:
                continue
            try:
                await services.store.history.publish(fresh)
            except ModeliumError as exc:
                logger.warning("what waits at this gateway could not be stored: %s", exc)
            else:
                self._published.update(fresh)

    def _is_news(self, name: str, seen: Traffic) -> bool:
        last = self._published.get(name, Traffic())
        return any(
            getattr(seen, field) != getattr(last, field)
            for field in ("in_flight", "pending", "completed", "failed", "last_request_at")
        )

    async def _report(self) -> NodeReport:
        services, config = self._services, self._services.config
        devices = await asyncio.to_thread(services.devices.snapshot)
        rate = config.repository.fetch_mib_per_s
        return NodeReport(
            address=config.gateway.advertise,
            version=__version__,
            labels=config.orchestration.node_labels,
            devices=devices,
            runtimes=tuple(map(self._named, services.runtime_monitor.statuses())),
            fetches=config.repository.fetch,
            shares=config.repository.shared,
            fetch_bytes_per_s=services.fetched.bytes_per_s or (rate and rate * MIB),
            activity=self._activity(),
            settled=self._settled,
        )

    def _named(self, status: RuntimeStatus) -> RuntimeStatus:
        return status.model_copy(update={"node": self._services.node})

    def _activity(self) -> str:
        loading = sorted(self._services.loads)
        return f"loads {', '.join(loading)}" if loading else ""
