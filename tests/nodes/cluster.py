"""Several nodes whose time, the database's included, passes only when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from modelium.clock import SteadyClock
from modelium.errors import ModeliumError
from modelium.lifecycle import ModelState
from modelium.models import GIB, Booking, Deployment, LoadSettings, Model
from modelium.models.base import instance_name
from modelium.models.nodes import SILENT_S
from modelium.store.lease import Lease
from modelium.store.planner_lease import LOOK_S, NAME, TTL_S
from tests.fakes.clock import START, FakeClock
from tests.invariants import ledger
from tests.invariants.database import of_postgresql
from tests.nodes.machine import Machine
from tests.nodes.node import SimulatedNode, files_of, registered, text_model
from tests.postgresql import Server, set_time

ROUND_S = 0.25
"""Time that passes for the nodes in a round: what waits for another's step looks again."""


INTERVAL_S = 10.0
"""Between two ticks of a control loop."""

PATIENCE_S = 0.1
"""For a step, in real time: one that takes longer waits for time to pass, or goes on beside."""


class NodeClock(SteadyClock):
    """A machine's clock, ``off_s`` ahead of the true time; its service goes by the database's."""

    def __init__(self, off_s: float = 0.0) -> None:
        """Start at the time of every `FakeClock`."""
        self.fake = FakeClock(hurried=False)
        super().__init__(wall=lambda: self.fake.time() + off_s, elapsed=self.fake.monotonic)

    def monotonic(self) -> float:
        """Return the seconds since the clock was created."""
        return self.fake.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep until a test has advanced the time by ``seconds``."""
        await self.fake.sleep(seconds)


class Cluster:
    """Nodes over one database. Belongs to the running event loop."""

    def __init__(self, server: Server, folder: Path) -> None:
        """Start with no node; all models' files are in ``folder``."""
        self.url = server.clocked()
        self.nodes: dict[str, SimulatedNode] = {}
        self.machines: dict[str, Machine] = {}
        self._stopped: dict[str, float] = {}
        self.heard: list[ModeliumError] = []
        """What steps of nodes have failed with."""
        self._folder = folder
        self._elapsed = 0.0
        self._steps: dict[str, asyncio.Future[object]] = {}
        self._begun: list[asyncio.Task[Any]] = []
        self._loops: dict[str, list[asyncio.Task[None]]] = {}

    # --- nodes --------------------------------------------------------------------------------

    async def add(self, name: str, *, off_s: float = 0.0, gpus: int = 1) -> SimulatedNode:
        """Add a machine that joins; the first one plans."""
        clock = NodeClock(off_s)
        clock.fake.advance(self._elapsed)
        self.machines[name] = Machine(name, clock=clock, gpus=gpus)
        others = list(self.nodes.values())
        token = others[0].store.nodes.issue_token() if others else None
        return await self.up(name, token=token)

    async def up(self, name: str, *, token: str | None = None) -> SimulatedNode:
        """Start the service on a machine, whose engines may still run."""
        machine = self.machines[name]
        clock = _clock(machine)
        node = SimulatedNode(
            machine,
            url=self.url,
            folder=self._folder,
            clock=clock,
            advertise=f"http://{name}:8000",
            max_wait_s=600.0,  # of the event loop's time, which is real
            policies={"min_residency_seconds": 0.0},
        )
        clock.follow(node.store.time())
        planner = node.store.planner
        planner._lease = Lease(engine=node.store._engine, name=NAME, holder=name, ttl_s=TTL_S)
        try:
            await node.membership.join(token)
        except BaseException:
            await node.aclose()
            raise
        self.nodes[name] = node
        self.look(name)
        self.advance(0.001)  # two heartbeats are never at the same time
        await node.recover()
        self._loops[name] = [
            asyncio.create_task(run()) for run in (node.answering.run, node.demand.run)
        ]
        return node

    async def down(self, name: str) -> None:
        """Kill the service on a machine; its engines go on, its leases run out."""
        steps = [at for at in self._steps if at.startswith(f"{name} ")]
        for work in (*self._loops.pop(name), *map(self._steps.pop, steps)):
            work.cancel()
        await self.nodes.pop(name).aclose()

    def look(self, name: str) -> None:
        """Have a node renew the planner's lease, or take it where nobody holds it."""
        node = self.nodes[name]
        lease = node.store.planner._lease
        assert lease is not None
        try:
            node.store.planner._step(lease, node.services.pulse.beat)
        except ModeliumError as exc:
            self.heard.append(exc)

    def planners(self) -> list[str]:
        """Return the nodes that believe to plan."""
        return [name for name, node in self.nodes.items() if node.services.store.plans]

    def answers(self, name: str) -> bool:
        """Whether a node still answers, while it plans, what others ask."""
        return not self._loops[name][0].done()

    # --- time ---------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Have time pass everywhere, in which nobody does anything."""
        self._elapsed += seconds
        set_time(self.url, START + self._elapsed)
        self._pass(seconds)

    def _pass(self, seconds: float) -> None:
        """Have time pass for the nodes that are not stopped."""
        for name, machine in self.machines.items():
            if name not in self._stopped:
                _clock(machine).fake.advance(seconds)

    async def live(self, seconds: float) -> None:
        """Have time pass in which each node that is there does what it does."""
        passed = 0.0
        while passed < seconds:
            self.advance(min(seconds - passed, LOOK_S))
            passed += LOOK_S
            for name in self.acting():
                self.look(name)
                await self._make(name, self.nodes[name].membership.beat)
            if passed % INTERVAL_S < LOOK_S:
                await self.round()
        await self.round()

    def stop(self, name: str) -> None:
        """Have a node do nothing, as after SIGSTOP."""
        self._stopped[name] = self._elapsed

    def go_on(self, name: str) -> None:
        """Have it wake, as after SIGCONT; nobody has told it how long it slept."""
        _clock(self.machines[name]).fake.advance(self._elapsed - self._stopped.pop(name))

    def acting(self) -> list[str]:
        """Return the nodes that are not stopped."""
        return [name for name in self.nodes if name not in self._stopped]

    async def round(self) -> None:
        """Have each node send a heartbeat, tick, and act on what is due, once."""
        for name in self.acting():
            node = self.nodes[name]
            steps: list[Callable[[], Awaitable[object]]] = [
                node.membership.beat,
                node.loop.tick,
                node.acting.act,
                node.forwarding.follow,
            ]
            for step in steps:
                await self._make(name, step)
            node.services.pulse.beat()
        self._pass(ROUND_S)

    async def until(self, reached: Callable[[], bool]) -> None:
        """Have rounds go by until ``reached()``; the database's time stands still."""
        while not reached():
            await self.round()

    async def _make(self, name: str, step: Callable[[], Awaitable[object]]) -> None:
        """Make one step of a node, unless it is still at the last one: it waits for time to pass."""
        at = f"{name} {step.__qualname__}"
        work = self._steps.pop(at, None) or asyncio.ensure_future(step())
        await asyncio.wait({work}, timeout=PATIENCE_S)
        if not work.done():
            self._steps[at] = work
            return
        try:
            work.result()
        except ModeliumError as exc:
            self.heard.append(exc)

    # --- models -------------------------------------------------------------------------------

    def register(self, *names: str, gib: float = 60.0) -> None:
        """Register models that are not loaded; two of them do not fit one GPU."""
        at = START + self._elapsed
        registered(self.url, [_model(name, gib, files_of(self._folder), at) for name in names])

    def place(self, name: str, node: str, *, gib: float = 60.0) -> None:
        """Register a model that is ready on a machine that is up."""
        at, machine = START + self._elapsed, self.machines[node]
        instance = instance_name(name, 1)
        deployment = Deployment(
            model=name,
            version=1,
            instance=instance,
            runtime=machine.name,
            devices=machine.ids[:1],
            settings=LoadSettings(),
            upstream=machine.upstream(instance),
            handle={"name": instance},
            started_at=at,
            ready_at=at,
        )
        booked = Booking(model=name, device=machine.ids[0], bytes=int((gib + 8) * GIB))
        ready = {"state": ModelState.READY, "deployment": deployment}
        model = _model(name, gib, files_of(self._folder), at).model_copy(update=ready)
        registered(self.url, [model], [booked])
        machine.hold(deployment, {booked.device: booked.bytes})

    def request(self, node: str, model: str) -> asyncio.Task[str]:
        """Send a request at a node's gateway; the task returns the node that is to answer it."""

        async def ask() -> str:
            async with self.nodes[node].services.switchboard.admit(model) as upstream:
                return upstream.peer or node

        task = asyncio.create_task(ask())
        self._begun.append(task)
        return task

    async def silenced(self) -> tuple[SimulatedNode, SimulatedNode]:
        """Return ``a``, at which requests for ``m`` wait, and ``b``, which has it and is silent."""
        a, b = await self.add("a"), await self.add("b")
        self.place("m", "b")
        await self.round()
        b.lose_store()
        await self.live(SILENT_S + 2.5)
        a.services.switchboard.suspect("m")  # its gateway does not answer
        return a, b

    async def answered(self, node: str, model: str) -> str:
        """Send a request, and have rounds go by until it is admitted; return who answers it."""
        await self.round()  # every gateway has heard of every model
        task = self.request(node, model)
        await self.until(task.done)
        return task.result()

    def model(self, name: str) -> Model:
        """Return a model as the store has it."""
        store = next(node.store for node in self.nodes.values() if node.has_store)
        return store.model(name)

    def running(self, name: str) -> list[str]:
        """Return the machines that run ``name``, whatever the store says."""
        return [
            machine.node for machine in self.machines.values()
            if any(held.partition("@")[0] == name for held in machine.held)
        ]  # fmt: skip

    def violations(self, *, whole: bool = True) -> list[str]:
        """Return what must hold and does not; not ``whole``: a node may run what it must clear."""
        tables = of_postgresql(self.url)
        totals = {d.id: d.total_bytes for m in self.machines.values() for d in m.snapshot()}
        found = [*ledger.unbooked(tables), *ledger.overbooked(tables, totals)]
        if whole:
            held = {name: machine.held for name, machine in self.machines.items()}
            found += [*ledger.doubled(tables, ()), *ledger.elsewhere(tables, held)]
        return found

    async def aclose(self) -> None:
        """End everything."""
        for task in self._begun:
            task.cancel()
        await asyncio.gather(*self._begun, return_exceptions=True)
        for name in list(self.nodes):
            await self.down(name)


def _clock(machine: Machine) -> NodeClock:
    assert isinstance(machine.clock, NodeClock)
    return machine.clock


def _model(name: str, gib: float, files: Path, at: float) -> Model:
    return Model(
        name=name,
        path=str(files),
        state=ModelState.UNLOADED,
        state_since=at,
        registered_at=at,
        profile=text_model(gib),
    )
