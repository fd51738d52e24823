"""One simulated node: its services over the shared store and a machine of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from agents.rules.planner import RulePlanner
from modelium.app.node import PeerRoutes
from modelium.config import Config
from modelium.control.acting import Acting
from modelium.control.answering import Answering
from modelium.control.demand import Demand
from modelium.control.forwarding import Forwarding
from modelium.control.loop import Loop
from modelium.control.membership import Membership
from modelium.control.recovery import recover
from modelium.control.signals import Signals
from modelium.control.supervision import supervise
from modelium.errors import StoreUnavailable
from modelium.intake.repository import ModelRepository
from modelium.metrics import Metrics
from modelium.models import (
    GIB,
    Booking,
    Model,
    ModelFormat,
    ModelProfile,
    RuntimeName,
    RuntimeSupport,
    Task,
)
from modelium.ports import Brain, Clock
from modelium.routing.switchboard import Switchboard
from modelium.stages.inline import InlineRunner
from modelium.stages.launcher import StageLauncher
from modelium.stages.runtime_monitor import RuntimeMonitor
from modelium.stages.services import Services, provide
from modelium.stages.table import STAGES
from modelium.store import AsyncStore, Store, queries, schema
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
        advertise: str | None = None,
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
            advertise: its gateway's URL for other nodes.
            orchestration: further fields of that section.
        """
        self.name = machine.node
        self.machine, self.clock = machine, clock
        self.signals, metrics = Signals(), Metrics()
        self.store = Store(engine=connect(url), now=clock.time, on_event=lambda _event: None)
        self.has_store = True
        sa.event.listen(self.store._engine, "begin", self._on_begin)
        settings = config(folder, self.name, url=url, advertise=advertise, **orchestration)
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
            peers=PeerRoutes(secret=machine.secret),
            began=clock.time(),
        )
        self.store.act_as(self.name)
        self.loop = Loop(services=self.services, signals=self.signals)
        self.demand = Demand(services=self.services, signals=self.signals)
        self.membership = Membership(services=self.services, secret=machine.secret)
        self.answering = Answering(services=self.services)
        self.acting = Acting(services=self.services)
        self.forwarding = Forwarding(services=self.services)
        self._stack = AsyncExitStack()
        provide(self.services)

    # --- as the service does, in real time --------------------------------------------------

    async def start(self, *, token: str | None = None) -> None:
        """Join, recover, and run everything that the service runs beside the gateway."""
        loop = asyncio.get_running_loop()
        await self.membership.join(token)

        def wake() -> None:
            loop.call_soon_threadsafe(self.services.pulse.beat)

        self._stack.enter_context(self.store.planner.sought(self.name, wake))
        self._stack.enter_context(self.store.wakeups(wake))
        await self.recover()
        runs: dict[str, Callable[[], Awaitable[None]]] = {
            "loop": self.loop.run,
            "demand": self.demand.run,
            "heartbeat": self.membership.run,
            "published traffic": self.membership.publish,
            "answers": self.answering.run,
            "orders": self.acting.run,
            "routes": self.forwarding.run,
        }
        tasks = [
            asyncio.create_task(supervise(self.services, name, run), name=f"{self.name} {name}")
            for name, run in runs.items()
        ]
        self._stack.push_async_callback(_cancelled, tasks)

    async def recover(self) -> None:
        """Adopt what still runs on the machine, as at the start of the service."""
        await recover(self.services)
        await self.membership.settle()

    def lose_store(self) -> None:
        """Have every transaction of this node fail from now on, as in a partition."""
        self.has_store = False

    def regain_store(self) -> None:
        """Have transactions work again."""
        self.has_store = True

    def _on_begin(self, _connection: object) -> None:
        if not self.has_store:
            raise StoreUnavailable("the database cannot be reached")

    async def pause(self) -> None:
        """End what runs here, and let another node plan unless this one cannot say so."""
        plans = self.store.planner.epoch
        await self._stack.aclose()
        self.store.planner._epoch = plans

    async def aclose(self) -> None:
        """End what runs here, and close the store; the machine and its engines go on."""
        await self._stack.aclose()
        await self.launcher.aclose()
        self.store.close()


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def config(
    folder: Path, node: str, *, url: str, advertise: str | None = None, **orchestration: Any
) -> Config:
    """Return the configuration of one of several nodes."""
    return Config.model_validate(
        {
            "store": {"url": url},
            "vllm": {"enabled": True},
            "gateway": {"drain_grace_seconds": 0.0, "advertise": advertise},
            "ingest": {"verify_at_load": False},
            "repository": {"shared": True},
            "orchestration": {
                "node": node,
                "model_repository": str(folder / "repository"),
                "incoming_directory": str(folder / "incoming"),
                **orchestration,
            },
        }
    )


def text_model(gib: float) -> ModelProfile:
    """Return the profile of a model of ``gib`` GiB that vLLM can serve."""
    return ModelProfile(
        format=ModelFormat.TRANSFORMERS,
        architecture="LlamaForCausalLM",
        task=Task.TEXT_GENERATION,
        weight_bytes=int(gib * GIB),
        runtimes=(RuntimeSupport(runtime=RuntimeName.VLLM, supported=True),),
    )


def files_of(folder: Path) -> Path:
    """Return the folder of all models' files, made in the repository below ``folder``."""
    files = folder / "repository" / "files"
    files.mkdir(parents=True, exist_ok=True)
    return files


def registered(url: str, models: Iterable[Model], bookings: Iterable[Booking] = ()) -> None:
    """Write ``models`` with their deployments and ``bookings`` into the tables of ``url``."""
    named = [m.model_dump(mode="json") for m in models]
    # A column that is always None is left out: JSON would have a null of its own there.
    columns = [
        c.name for c in schema.models.columns if any(m.get(c.name) is not None for m in named)
    ]
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
        with queries.change(engine) as tx:
            for table, new in tables:
                if new:
                    tx.execute(sa.insert(table), new)
    finally:
        engine.dispose()
