"""A machine as one node of several that share a store; alone, it has no name and no peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from modelium.config import Config
from modelium.control.membership import Membership, node_secret
from modelium.models import Deployment, Model, Node, Upstream
from modelium.routing.peers import upstream_of
from modelium.stages.services import Services
from modelium.store.nodes import digest

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
    with store.planner.sought(f"{node.holder}", wake):
        yield membership
