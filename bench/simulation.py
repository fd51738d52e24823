"""Many nodes in one process over a real PostgreSQL, and what they cost."""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from agents.rules.planner import RulePlanner
from agents.rules.subprocess import PlannerSubprocess
from bench.wide_fleet import USABLE_GIB, node_name, wide_fleet
from modelium.clock import SystemClock
from modelium.lifecycle import ModelState
from modelium.models import GIB, Fleet, Model
from modelium.store import async_store
from tests.invariants import ledger
from tests.invariants.database import of_postgresql
from tests.nodes import Machine, SimulatedNode, files_of, registered
from tests.postgresql import Server

LOADED = 0.8
"""The share of models that is loaded at first; there is memory for all."""

AGE_S = 900.0
"""For which the loaded models have been ready: longer than they must stay, shorter than idle ones
may."""

THREADS = 2
"""For reads of one node's store, and as many for writes: all nodes share this process."""

STARTS = 2
"""Nodes that start at once."""

TICK_S = 10.0
"""The interval of the control loops, over which their starts are spread."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What was used while something went on."""

    transactions_per_s: float
    cpu_ms_per_s: float
    """Of this process, with all nodes in it."""
    database_cpu_ms_per_s: float


class Simulation:
    """Nodes whose engines are in memory. Belongs to the running event loop."""

    def __init__(
        self, server: Server, *, folder: Path, nodes: int, models: int, load_s: float
    ) -> None:
        """Fill a new database of ``server``; start no node."""
        self._server, self._url, self._folder = server, server.database(), folder
        self._name = self._url.partition("@/")[2].partition("?")[0]
        clock = SystemClock()
        names = [node_name(i) for i in range(nodes)]
        self._machines = {name: Machine(name, clock=clock, load_s=load_s) for name in names}
        self._offload = PlannerSubprocess(clock=clock)
        files = files_of(folder)
        fleet = wide_fleet(nodes=nodes, models=models, loaded=LOADED, need=0.95)
        now = time.time()
        stored = [self._stored(model, fleet, files, now) for model in fleet.models]
        registered(self._url, stored, fleet.bookings)
        self.absent = [m.name for m in stored if m.deployment is None and _fits_one(m)]
        """Models that are not loaded at first, and need no more than one GPU."""
        async_store.WORKERS = THREADS
        brain = RulePlanner(offload=self._offload)
        self.nodes = [
            SimulatedNode(
                machine,
                url=self._url,
                folder=folder,
                clock=clock,
                brain=brain,
                advertise=f"http://{name}:8000",
            )
            for name, machine in self._machines.items()
        ]

    async def start(self) -> None:
        """Start all nodes; their loops tick at different times."""
        first, *others = self.nodes
        await _apart(first.start())
        pause = TICK_S / len(self.nodes)
        gate = asyncio.Semaphore(STARTS)

        async def start(node: SimulatedNode) -> None:
            async with gate:
                token = await asyncio.to_thread(first.store.nodes.issue_token)
                await _apart(node.start(token=token))

        async with asyncio.TaskGroup() as group:
            for node in others:
                group.create_task(start(node))
                await asyncio.sleep(pause)

    async def pause(self) -> None:
        """End what the nodes run, so that one of them can be measured."""
        for node in self.nodes:
            await node.pause()

    async def aclose(self) -> None:
        """End everything."""
        await asyncio.gather(*(node.aclose() for node in self.nodes))
        await self._offload.aclose()

    # --- what is read of it -------------------------------------------------------------------

    def planner(self, *, besides: SimulatedNode | None = None) -> SimulatedNode | None:
        """Return the node that plans."""
        return next((n for n in self.nodes if n is not besides and _plans(n)), None)

    def standby(self) -> SimulatedNode:
        """Return a node that does not plan."""
        return next(n for n in self.nodes if n.has_store and not _plans(n))

    def begun(self) -> dict[str, float]:
        """Return model → when (monotonic) its first load command came."""
        found: dict[str, float] = {}
        for machine in self._machines.values():
            for at, name in machine.begun:
                model = name.partition("@")[0]
                found[model] = min(at, found.get(model, at))
        return found

    async def renewal(self, node: SimulatedNode) -> float:
        """Wait until ``node`` has renewed the planner's lease; return when (monotonic)."""
        before = self._sql("SELECT until * 1000 FROM leases WHERE name = 'planner'")
        while before == self._sql("SELECT until * 1000 FROM leases WHERE name = 'planner'"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return time.monotonic()

    async def watched(self, work: Awaitable[None]) -> Costs:
        """Await ``work``; return what was used meanwhile."""
        began, cpu = time.perf_counter(), time.process_time()
        database, transactions = self._database_cpu_s(), self._transactions()
        await work
        used, there = time.process_time() - cpu, self._database_cpu_s() - database
        seconds = time.perf_counter() - began
        return Costs(
            transactions_per_s=(self._transactions() - transactions) / seconds,
            cpu_ms_per_s=used / seconds * 1000,
            database_cpu_ms_per_s=there / seconds * 1000,
        )

    async def tick_cpu_ms(self, node: SimulatedNode, ticks: int) -> list[float]:
        """Return the CPU time of ticks of ``node`` alone, all threads; all nodes have reported."""
        took = []
        for _ in range(ticks):
            for each in self.nodes:
                if each.has_store:
                    await each.membership.beat()
            began = time.process_time()
            await node.loop.tick()
            took.append((time.process_time() - began) * 1000)
        return took

    def connections(self) -> int:
        """Return how many sessions the database has."""
        return self._sql(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{self._name}'")

    def violations(self) -> list[str]:
        """Return what must hold and does not: bookings, devices and engines against each other."""
        tables = of_postgresql(self._url)
        totals = {d.id: d.total_bytes for m in self._machines.values() for d in m.snapshot()}
        engines = [
            (machine.name.value, name) for machine in self._machines.values()
            for name, held in machine.held.items() if held
        ]  # fmt: skip
        return [
            *ledger.unbooked(tables),
            *ledger.overbooked(tables, totals),
            *ledger.doubled(tables, engines),
            *ledger.elsewhere(tables, {name: m.held for name, m in self._machines.items()}),
        ]

    # --- how it is measured -------------------------------------------------------------------

    def _stored(self, model: Model, fleet: Fleet, files: Path, now: float) -> Model:
        """Return ``model`` as the tables are to have it; what is loaded runs on its machine."""
        fresh: dict[str, object] = {
            "path": str(files),
            "state": ModelState.READY if model.deployment else ModelState.UNLOADED,
            "state_since": now - AGE_S,
            "queued_at": None,
            "registered_at": now - 2 * AGE_S,
        }
        if deployment := model.deployment:
            machine = self._machines[deployment.node]
            fresh["deployment"] = deployment = deployment.model_copy(
                update={
                    "upstream": machine.upstream(deployment.name),
                    "started_at": now - AGE_S - 20,
                    "ready_at": now - AGE_S,
                }
            )
            held = {b.device: b.bytes for d in deployment.devices
                    for b in fleet.bookings_by_device[d] if b.model == model.name}  # fmt: skip
            machine.hold(deployment, held)
        return model.model_copy(update=fresh)

    def _sql(self, query: str) -> int:
        with psycopg.connect(
            self._server.url("postgres") if "pg_stat" in query else self._url
        ) as one:
            found = one.execute(query.encode()).fetchone()
            return int(found[0]) if found else 0

    def _transactions(self) -> int:
        time.sleep(1.1)  # sessions report once a second
        return self._sql(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database"
            f" WHERE datname = '{self._name}'"
        )

    def _database_cpu_s(self) -> float:
        assert self._server.process is not None
        pid = self._server.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ticks = 0
        for each in (str(pid), *children):
            try:
                fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += int(fields[11]) + int(fields[12])
            if each == str(pid):
                ticks += int(fields[13]) + int(fields[14])  # sessions that have ended
        return ticks / os.sysconf("SC_CLK_TCK")


def _fits_one(model: Model) -> bool:
    weights = model.profile.weight_bytes if model.profile else 0
    return weights < USABLE_GIB * GIB * 0.8


def _plans(node: SimulatedNode) -> bool:
    return node.has_store and node.services.store.plans


async def _apart(work: Awaitable[None]) -> None:
    """Await ``work`` in a context of its own: services are found by it."""

    async def run() -> None:
        await work

    await asyncio.create_task(run(), context=contextvars.copy_context())
