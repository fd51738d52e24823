"""Modelium's objects on a Prefect server: work pool, queues, deployments; and clean-up."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentUpdate,
    WorkPoolCreate,
)
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.states import Cancelled, Crashed, Pending
from prefect.utilities.callables import parameter_schema

from flows.runner import queues
from flows.runner.peers import AUTO_SCHEDULED
from modelium.devices.processes import start_time
from modelium.ports import Stage

logger = logging.getLogger(__name__)

MANIFEST = Path(__file__).parents[1] / "prefect.yaml"
"""The deployments."""

POOL_TYPE = "modelium"
"""No worker of Prefect's serves this type, so that none claims our runs by accident."""

ORPHAN_S = 60.0
"""A run claimed this long ago without an owner belongs to a process that crashed between the two
requests, which are milliseconds apart."""

CLAIMED_BY = "claimed by "

BACKLOG_S = 30.0
"""A scheduled sweep that is later than this was missed; the next one replaces it."""

BATCH = 50
"""Runs that one bulk request may delete."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """The process that executes a run, as stored in its ``infrastructure_pid``."""

    node: str
    pid: int
    started: int
    """Start time (kernel ticks), so that a reused pid is not taken for the same process."""

    def __str__(self) -> str:
        return f"{self.node}:{self.pid}:{self.started}"

    @classmethod
    def of_this_process(cls, node: str) -> Owner:
        """Return this process, on ``node``."""
        return cls(node=node, pid=os.getpid(), started=start_time(os.getpid()) or 0)

    @classmethod
    def parse(cls, text: str | None) -> Owner | None:
        """Parse what ``str`` returns; ``None`` for anything else."""
        node, _, rest = (text or "").partition(":")
        pid, _, started = rest.partition(":")
        if not (node and pid.isdecimal() and started.isdecimal()):
            return None
        return cls(node=node, pid=int(pid), started=int(started))

    @property
    def lives(self) -> bool:
        """Whether it still runs. Valid only on its own node."""
        return start_time(self.pid) == self.started


async def register(
    client: PrefectClient,
    *,
    flows: Mapping[Stage, Flow[..., Any]],
    pool: str,
    node: str | None = None,
    outdated: bool = False,
    manifest: Path = MANIFEST,
) -> dict[Stage, UUID]:
    """Create or update pool, queues and deployments; return the deployments' ids.

    Idempotent; several nodes may do it at once. The schedules of a deployment that is there already
    are the user's: they stay as they are, paused or changed.

    Args:
        client: entered.
        flows: stage → flow.
        pool: name of the work pool.
        node: whose queue is created, too; ``None``: this machine is the only one.
        outdated: a node with a newer version is there, and what it registered stays.
        manifest: the deployments.
    """
    entries = yaml.safe_load(manifest.read_text())["deployments"]  # noqa: ASYNC240 - one small file
    try:
        await client.read_work_pool(pool)
    except ObjectNotFound:
        await _unless_there(client.create_work_pool(_pool(pool)))
    for queue in sorted({entry["work_pool"]["work_queue_name"] for entry in entries}):
        await queues.provide(client, queue, pool=pool)
    if node:
        await queues.provide_own(client, node, pool=pool)
    return {
        entry["name"]: await _deploy(client, flows[entry["name"]], entry, pool, keep=outdated)
        for entry in entries
    }


async def recover(
    client: PrefectClient, *, pool: str, owner: Owner, held: Collection[UUID]
) -> list[UUID]:
    """Set the final state of runs that dead processes of this node left; return their ids.

    ``held``: runs that this process still executes.
    """
    return await _end(client, pool, lambda run: run.id not in held and _is_dead(run, owner))


async def recover_absent(
    client: PrefectClient, *, pool: str, present: Collection[str]
) -> list[UUID]:
    """Set the final state of runs of nodes that are not ``present``; return their ids."""
    return await _end(client, pool, lambda run: _is_absent(run, present))


async def _end(client: PrefectClient, pool: str, is_dead: Callable[[FlowRun], bool]) -> list[UUID]:
    ended = []
    unfinished = FlowRunFilter(
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(
                any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
            )
        )
    )
    runs = await client.read_flow_runs(flow_run_filter=unfinished, work_pool_filter=_in_pool(pool))
    for run in filter(is_dead, runs):
        cancelling = run.state_type == StateType.CANCELLING
        message = "the Modelium process that executed it no longer exists"
        state: State[Any] = Cancelled(message=message) if cancelling else Crashed(message=message)
        await client.set_flow_run_state(run.id, state, force=True)
        ended.append(run.id)
    if ended:
        logger.warning(
            "%d flow runs of a process that no longer exists were marked as ended", len(ended)
        )
    return ended


def claim(owner: str) -> State[Any]:
    """Return the state of a run that ``owner`` (an `Owner` as text) is about to execute.

    It names the owner: one that dies before it has begun is known, too.
    """
    return Pending(message=f"{CLAIMED_BY}{owner}")


def owner_of(run: FlowRun) -> Owner | None:
    """Return the process that executes or has claimed ``run``; ``None``: it is not known."""
    message = (run.state.message if run.state else None) or ""
    return Owner.parse(run.infrastructure_pid) or Owner.parse(message.removeprefix(CLAIMED_BY))


def is_missed(run: FlowRun) -> bool:
    """Whether a scheduled sweep is so late that the next one replaces it."""
    due = run.expected_start_time
    return due is not None and datetime.now(UTC) - due > timedelta(seconds=BACKLOG_S)


async def drop_backlog(client: PrefectClient, *, deployments: Collection[UUID]) -> int:
    """Delete scheduled runs that were missed while no worker ran; return how many."""
    before = datetime.now(UTC) - timedelta(seconds=BACKLOG_S)
    overdue = {
        "state": {"type": {"any_": [StateType.SCHEDULED.value]}},
        "deployment_id": {"any_": [str(deployment) for deployment in deployments]},
        "tags": {"all_": [AUTO_SCHEDULED]},
        "expected_start_time": {"before_": before.isoformat()},
    }
    dropped = 0
    while True:
        answer = await client.request(
            "POST",
            "/flow_runs/bulk_delete",  # type: ignore[arg-type] # the client's list of routes lags
            json={"flow_runs": overdue, "limit": BATCH},
        )
        deleted = len(answer.json()["deleted"])
        dropped += deleted
        if deleted < BATCH:
            return dropped


async def _deploy(
    client: PrefectClient,
    flow: Flow[..., Any],
    entry: Mapping[str, Any],
    pool: str,
    *,
    keep: bool,
) -> UUID:
    name = entry["name"]
    given: dict[str, Any] = {
        "description": entry["description"],
        "tags": entry["tags"],
        "entrypoint": entry["entrypoint"],
        "work_pool_name": pool,
        "work_queue_name": entry["work_pool"]["work_queue_name"],
        "parameter_openapi_schema": parameter_schema(flow.fn).model_dump_for_openapi(),
        "enforce_parameter_schema": True,
    }
    try:
        known = await client.read_deployment_by_name(f"{flow.name}/{name}")
    except ObjectNotFound:
        intervals = (schedule["interval"] for schedule in entry.get("schedules", ()))
        return await client.create_deployment(
            await client.create_flow(flow),
            name,
            schedules=[
                DeploymentScheduleCreate(
                    schedule=IntervalSchedule(interval=timedelta(seconds=seconds)), active=True
                )
                for seconds in intervals
            ],
            **given,
        )
    if keep:
        return known.id
    # Creating it again would make its schedules anew.
    await client.update_deployment(known.id, DeploymentUpdate(**given))
    return known.id


def _pool(name: str) -> WorkPoolCreate:
    return WorkPoolCreate(
        name=name,
        type=POOL_TYPE,
        description="Runs are executed inside the Modelium service.",
        # Runs have no infrastructure to configure.
        base_job_template={},
    )


async def _unless_there(creation: Any) -> None:
    try:
        await creation
    except ObjectAlreadyExists:
        logger.debug("it was created by another process")


def _in_pool(pool: str) -> WorkPoolFilter:
    return WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))


def _is_dead(run: FlowRun, owner: Owner) -> bool:
    by = owner_of(run)
    if by is None:
        return _is_orphan(run)
    return by.node == owner.node and (by == owner or not by.lives)


def _is_absent(run: FlowRun, present: Collection[str]) -> bool:
    by = owner_of(run)
    return _is_orphan(run) if by is None else by.node not in present


def _is_orphan(run: FlowRun) -> bool:
    since = run.state.timestamp if run.state else run.created
    return since is not None and datetime.now(UTC) - since > timedelta(seconds=ORPHAN_S)
