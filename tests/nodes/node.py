"""One simulated node: its services over the shared store and a machine of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from agents.rules.planner import RulePlanner
from modelium.config import Config
from modelium.control.demand import Demand
from modelium.control.loop import Loop
from modelium.control.signals import Signals
from modelium.intake.repository import ModelRepository
from modelium.lifecycle import ModelState
from modelium.metrics import Metrics
from modelium.models import Booking, Model
from modelium.ports import Brain, Clock
from modelium.routing.switchboard import Switchboard
from modelium.stages.inline import InlineRunner
from modelium.stages.launcher import StageLauncher
from modelium.stages.runtime_monitor import RuntimeMonitor
from modelium.stages.services import Services, provide
from modelium.stages.table import STAGES
from modelium.store import AsyncStore, Store, schema
from modelium.store.connection import connect
from modelium.traffic import TrafficBook
from tests.nodes.machine import Machine


class SimulatedNode:
    """A life of the service on ``machine``. Belongs to the running event loop."""

    def __init__(
        self,
        machine: Machine,
        *,
        url: str,
        folder: Path,
        clock: Clock,
        brain: Brain | None = None,
        max_wait_s: float = 60.0,
        **orchestration: Any,
    ) -> None:
        """Open the store, which has the present schema; start nothing.

        Args:
            machine: with the same name.
            url: of the store.
            folder: for the files of all models.
            clock: this node's own.
            brain: default: the rules in a thread.
            max_wait_s: for which a request waits.
            orchestration: further fields of that section.
        """
        self.name = machine.node
        self.machine, self.clock = machine, clock
        self.signals, metrics = Signals(), Metrics()
        self.store = Store(engine=connect(url), now=clock.time, on_event=lambda _event: None)
        settings = config(folder, self.name, **orchestration)
        runtimes: Any = {machine.name: machine}
        policy = settings.policy()
        self.launcher = StageLauncher(
            runner=InlineRunner(stages=STAGES, services=lambda: self.services)
        )
        self.services = Services(
            config=settings,
            policy=policy,
            store=AsyncStore(self.store),
            repository=ModelRepository(config=settings.orchestration),
            switchboard=Switchboard(
                traffic=TrafficBook(clock=clock),
                listener=self.signals,
                metrics=metrics,
                max_waiting_per_model=8,
                max_wait_s=max_wait_s,
            ),
            devices=machine,
            runtimes=runtimes,
            runtime_monitor=RuntimeMonitor(runtimes=runtimes, policy=policy),
            brain=brain or RulePlanner(),
            launcher=self.launcher,
            telemetry=metrics,
            clock=clock,
            node=self.name,
        )
        self.store.history.node = self.name
        self.loop = Loop(services=self.services, signals=self.signals)
        self.demand = Demand(services=self.services, signals=self.signals)
        provide(self.services)

    async def aclose(self) -> None:
        """End what stages run in the background, and close the store; the machine goes on."""
        await self.launcher.aclose()
        self.store.close()


def config(folder: Path, node: str, **orchestration: Any) -> Config:
    """Return the configuration of one of several nodes."""
    return Config.model_validate(
        {
            "vllm": {"enabled": True},
            "gateway": {"drain_grace_seconds": 0.0},
            "ingest": {"verify_at_load": False},
            "orchestration": {
                "node": node,
                "model_repository": str(folder / "repository"),
                "incoming_directory": str(folder / "incoming"),
                **orchestration,
            },
        }
    )


def registered(url: str, models: Iterable[Model], bookings: Iterable[Booking] = ()) -> None:
    """Write ``models`` with their deployments and ``bookings`` into the tables of ``url``."""
    named = [m.model_dump(mode="json") for m in models]
    columns = [c.name for c in schema.models.columns]
    loaded = [m for m in named if m["deployment"]]
    versions = [
        {"model": m["name"], **{k: m[k] for k in ("path", "registered_at", "profile")}}
        | {"version": 1, "digest": f"sha256:{m['name']}"}
        for m in named
    ]
    deployments = [
        {"model": m["name"], "runtime": m["deployment"]["runtime"], "document": m["deployment"]}
        for m in loaded
    ]
    rows = [{k: m[k] for k in columns} | {"reason": "-"} for m in named]
    tables: list[tuple[sa.Table, list[dict[str, Any]]]] = [
        (schema.models, rows),
        (schema.versions, versions),
        (schema.deployments, deployments),
        (schema.bookings, [b.model_dump() for b in bookings]),
    ]
    engine = connect(url)
    try:
        with engine.begin() as tx:
            for table, new in tables:
                if new:
                    tx.execute(sa.insert(table), new)
    finally:
        engine.dispose()


async def until(reached: Any, *, every_s: float = 0.005) -> None:
    """Wait until ``reached()``; a test that fails waits for pytest's own limit."""
    while not reached():  # noqa: ASYNC110 - the store and its threads tell nobody
        await asyncio.sleep(every_s)


SETTLED = (ModelState.UNLOADED, ModelState.READY)
