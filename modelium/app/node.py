"""A machine as one node of several that share a store; alone, it has no name and no peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from modelium.config import Config
from modelium.control.membership import Membership, node_secret
from modelium.gateway.certificates import trust_of
from modelium.models import Deployment, Model, Node, Upstream
from modelium.ports import FileSources
from modelium.routing.peers import upstream_of
from modelium.stages.http_files import HttpFiles
from modelium.stages.services import Services
from modelium.store.nodes import digest

CONNECT_S = 5.0

READ_S = 30.0
"""Without a byte of what another node sends; it waits here when many fetch."""

SHOWN = 12
"""Characters of the identity in the names of lease holders."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerRoutes:
    """`ports.Peers`: the other nodes' gateways, which know this one by its secret."""

    secret: str

    def upstream(self, model: Model, deployment: Deployment, node: Node) -> Upstream | None:
        """Where requests for ``model`` go that ``node`` answers; ``None``: not from here."""
        return upstream_of(deployment, model.name, node, self.secret)


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeIdentity:
    """A node's name, and the secret by which the store and the others know it."""

    name: str = ""
    secret: str = ""

    @classmethod
    def of(cls, config: Config, *, shared: bool) -> NodeIdentity:
        """Return this machine's; ``shared``: whether several nodes may use the store."""
        if not shared:
            return cls()
        secret = node_secret(config.orchestration.state)
        return cls(name=config.orchestration.node, secret=secret)

    @property
    def holder(self) -> str | None:
        """How the names begin under which this machine holds leases."""
        return f"{self.name} {digest(self.secret)[:SHOWN]}" if self.name else None

    def peers(self) -> PeerRoutes | None:
        """Return how other nodes are reached."""
        return PeerRoutes(secret=self.secret) if self.name else None


@asynccontextmanager
async def file_sources(config: Config, node: NodeIdentity) -> AsyncIterator[FileSources | None]:
    """Yield how files are fetched from other nodes; ``None``: they are not."""
    if not node.name:
        yield None
        return
    client = httpx.AsyncClient(
        headers={"authorization": f"Bearer {node.secret}"},
        verify=trust_of(config.gateway)(),
        timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
        trust_env=False,
    )
    async with client:
        yield HttpFiles(client=client)


@asynccontextmanager
async def joined(services: Services, node: NodeIdentity) -> AsyncIterator[Membership]:
    """Be a node of the store while the body runs, and plan where nobody else does.

    Raises:
        InputError: this machine may not join.
    """
    loop = asyncio.get_running_loop()

    def wake() -> None:
        loop.call_soon_threadsafe(services.pulse.beat)

    membership = Membership(services=services, secret=node.secret)
    token = services.config.orchestration.join_token
    await membership.join(token.get_secret_value() if token else None)
    store = services.store.blocking
    with store.planner.sought(f"{node.holder}", wake), store.wakeups(wake):
        try:
            yield membership
        finally:
            await membership.leave()
