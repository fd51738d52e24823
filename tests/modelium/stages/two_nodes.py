"""Two nodes over one store, each with its own runtime and devices, in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import sqlalchemy as sa

from modelium.lifecycle import ModelState
from modelium.models import GIB, Device, Load, LoadSettings, Model, NodeReport, RuntimeName
from modelium.ports import Loaded, LoadRequest, Progress
from modelium.stages.evict import evict
from modelium.stages.loads import Loads
from modelium.stages.memory_deltas import DeviceActivity
from modelium.stages.owners import Orphans, Owners
from modelium.stages.part_work import PartWork
from modelium.stages.pulse import Pulse
from modelium.stages.runtime_monitor import RuntimeMonitor
from modelium.store import schema
from tests.fakes.devices import CPU, FixedInventory
from tests.fakes.runtime import MemoryRuntime
from tests.modelium.conftest import World
from tests.modelium.stages.rows import HELD, accepted, background

THERE = Device(
    node="there", uuid="cpu", kind="cpu", name="a CPU", total_bytes=8 * GIB, free_bytes=8 * GIB
)
RUNTIME = RuntimeName.RAY_SERVE


class PartRuntime(MemoryRuntime):
    """Loads parts: those that do not answer have no upstream."""

    async def load(self, request: LoadRequest, *, progress: Progress) -> Loaded:
        loaded = await super().load(request, progress=progress)
        rank = request.span.rank if request.span else 0
        return replace(loaded, upstream=None) if rank else loaded


class TwoNodes:
    """``here`` answers for the model `tiny`; ``there`` has its second part."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.other = PartRuntime()
        runtimes = {RUNTIME: self.other}
        self.here = replace(world.services, node="here")
        world.services = self.here
        self.there = replace(
            world.services,
            node="there",
            devices=FixedInventory(THERE),
            runtimes=runtimes,
            runtime_monitor=RuntimeMonitor(runtimes=runtimes, policy=world.services.policy),
            activity=DeviceActivity(),
            loads=Loads(),
            owners=Owners(),
            orphans=Orphans(),
            pulse=Pulse(),
        )
        self.work = PartWork(services=self.there)
        nodes = world.store.nodes
        for name, device in (("here", CPU), ("there", THERE)):
            token = nodes.issue_token() if name == "there" else None
            report = NodeReport(address=f"http://{name}.example:8000", devices=(device,))
            # Only the first address has to be this machine's own.
            if name == "here":
                report = report.model_copy(update={"address": "http://127.0.0.1:8000"})
            nodes.join(name, identity=name, token=token, report=report)
        self.heard(10**9)

    def heard(self, ahead_s: float) -> None:
        """Date the heartbeat of ``there``; far ahead: it is not silent however slow the test."""
        nodes = schema.nodes
        with self.world.store._engine.begin() as tx:
            tx.execute(sa.update(nodes).values(seen_at=10**10))
            mine = nodes.c.name == "there"
            tx.execute(sa.update(nodes).where(mine).values(seen_at=ahead_s * 10))

    @classmethod
    async def made(cls, world: World) -> TwoNodes:
        """Return them, with `tiny` registered and unloaded."""
        await world.load()
        await evict(world.services, models=["tiny"])
        return cls(world)

    def booked(self) -> str:
        """Book a load of `tiny` over both nodes; return the decision's id."""
        action = Load(
            model="tiny",
            runtime=RUNTIME,
            devices=(CPU.id, THERE.id),
            reserve={CPU.id: HELD, THERE.id: HELD},
            settings=LoadSettings(pipeline_parallel_size=2),
            reason="booked",
        )
        return accepted(self.world, action)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Have ``there`` look at its rows again and again while the body runs."""

        async def look() -> None:
            while True:
                await self.there.runtime_monitor.observe({})
                await self.work.act()
                await background(self.world)

        looking = asyncio.create_task(look())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def leave(self) -> None:
        """Unload `tiny` on both nodes."""
        async with self.serving():
            await evict(self.world.services, models=["tiny"])

    async def part_is(self, state: str) -> None:
        """Wait until the second part is in ``state``."""
        store = self.world.store
        await self.world.eventually(
            lambda: [part.state for part in store.parts.of("tiny")] == [state]
        )

    def model(self) -> Model:
        return self.world.store.model("tiny")

    def state(self) -> ModelState:
        return self.model().state
