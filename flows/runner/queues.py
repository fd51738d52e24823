"""The work queues of a pool: two that all nodes serve, and one for each node."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
    WorkQueueFilter,
    WorkQueueFilterName,
)
from prefect.client.schemas.objects import State, StateType, WorkQueue
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.states import Cancelled

logger = logging.getLogger(__name__)

SLOTS: Mapping[str, int] = {"default": 8, "control": 2}
"""Runs at once per queue and node. They only protect Prefect's SQLite; the store decides what may
be loaded. Sweeps have their own queue, so they never wait behind loads."""

OWN_SLOTS = 8
"""Runs at once from the queue of a node."""

OF_NODE = "Runs of the Modelium node "
"""What the descriptions of nodes' queues begin with; the name of the node follows."""


def queue_of(node: str) -> str:
    """Return the name of the queue of ``node``: its own, unless a shared queue has that."""
    return f"node-{node}" if node in SLOTS else node


async def provide(client: PrefectClient, queue: str, *, pool: str, description: str = "") -> None:
    """Create ``queue`` where ``pool`` has none; two nodes may do so at once."""
    try:
        known = await client.read_work_queue_by_name(queue, work_pool_name=pool)
    except ObjectNotFound:
        try:
            await client.create_work_queue(queue, work_pool_name=pool, description=description)
        except ObjectAlreadyExists:
            logger.debug("%s was created by another process", queue)
        return
    if description and known.description != description:
        # A run that was asked for in this queue has created it.
        await client.update_work_queue(known.id, description=description)


async def provide_own(client: PrefectClient, node: str, *, pool: str) -> None:
    """Create the queue of ``node``."""
    await provide(client, queue_of(node), pool=pool, description=f"{OF_NODE}{node}")


async def remove_others(client: PrefectClient, *, pool: str, nodes: Collection[str]) -> list[str]:
    """Remove the queues of nodes that are not among ``nodes``, and return those nodes.

    What waits there is cancelled: nobody would ever take it.
    """
    queues = await client.read_work_queues(work_pool_name=pool)
    found = {(queue.description or "").partition(OF_NODE)[2]: queue for queue in queues}
    removed = sorted(set(found) - {"", *nodes})
    for node in removed:
        await _remove(client, found[node], pool=pool, node=node)
    return removed


async def _remove(client: PrefectClient, queue: WorkQueue, *, pool: str, node: str) -> None:
    waiting = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    for run in await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=waiting),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        work_queue_filter=WorkQueueFilter(name=WorkQueueFilterName(any_=[queue.name])),
    ):
        end: State[Any] = Cancelled(message=f"{node} was removed from the nodes of this store")
        await client.set_flow_run_state(run.id, end, force=True)
    await client.delete_work_queue_by_id(queue.id)
    try:
        await client.request(
            "DELETE",
            "/work_pools/{work_pool_name}/workers/{name}",
            path_params={"work_pool_name": pool, "name": node},
        )
    except httpx.HTTPStatusError as exc:
        if exc.response.status_code != HTTPStatus.NOT_FOUND:
            raise
    logger.info("%s is no node any more: its work queue was removed from Prefect", node)
