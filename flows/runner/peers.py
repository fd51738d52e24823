"""The nodes that share a Prefect server: which of them plans, and whose runs nobody executes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version

from packaging.version import InvalidVersion, Version
from prefect.client.schemas.objects import FlowRun

from modelium.errors import ModeliumError
from modelium.models import Node
from modelium.stages.services import Services

logger = logging.getLogger(__name__)

GONE_S = 60.0
"""A node that has been silent for this long is taken to have ended its runs. One that is back
earlier records their ends itself."""

AUTO_SCHEDULED = "auto-scheduled"
"""Prefect's tag of the runs that its schedules make."""

PIN = "node"
"""The job variable of a run that names the one node which may take it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peers:
    """The nodes of the store, seen from one of them. Belongs to Prefect's event loop."""

    node: str
    """This one."""
    plans: Callable[[], bool]
    """Whether it plans, as far as it knows."""
    nodes: Callable[[], tuple[Node, ...]]
    """All nodes, this one too; blocks, and raises `ModeliumError`."""
    version: str = version("modelium")

    @classmethod
    def of(cls, services: Services) -> Peers | None:
        """Return those of ``services``; ``None``: this machine is alone."""
        if not services.node:
            return None
        store = services.store
        return cls(node=services.node, plans=lambda: store.plans, nodes=store.blocking.nodes.all)

    async def all(self) -> tuple[Node, ...]:
        """Return all nodes.

        Raises:
            ModeliumError: the store does not answer.
        """
        return await asyncio.to_thread(self.nodes)

    async def outdate(self) -> bool:
        """Whether another node has a newer version, as far as the store says.

        Then this one leaves on the Prefect server what that one registered. A store that does not
        answer may have such a node.
        """
        try:
            return is_older(self.version, await self.all())
        except ModeliumError as exc:
            logger.warning("whether a node has a newer version is not known: %s", exc)
            return True

    def takes(self, run: FlowRun) -> bool:
        """Whether this node may claim ``run``, which is due."""
        pinned = (run.job_variables or {}).get(PIN)
        if pinned is not None:
            return bool(pinned == self.node)
        # Of the sweeps on schedule there is one for all nodes: that of the node that plans.
        return not is_on_schedule(run) or self.plans()


def is_on_schedule(run: FlowRun) -> bool:
    """Whether a schedule made ``run``, not a person."""
    return AUTO_SCHEDULED in run.tags


def present(nodes: Iterable[Node]) -> frozenset[str]:
    """Return the names of those that may still execute their runs."""
    return frozenset(node.name for node in nodes if node.silent_s <= GONE_S)


def is_older(own: str, nodes: Iterable[Node]) -> bool:
    """Whether one of ``nodes`` has a newer version of Modelium than ``own``."""
    mine, others = _parsed(own), [_parsed(node.report.version) for node in nodes]
    return mine is not None and any(one > mine for one in others if one is not None)


def _parsed(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
