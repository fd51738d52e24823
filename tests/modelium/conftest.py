"""A whole Modelium without Prefect and HTTP: real store, files, planner and policy."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from agents.brain import AdvisedBrain
from agents.llm.agent import Agent, Budget
from agents.llm.endpoint import Endpoint as Client
from agents.rules.planner import RulePlanner
from modelium.config import BrainSection, Config, Triton
from modelium.control.signals import Signals
from modelium.intake.repository import ModelRepository
from modelium.metrics import Metrics
from modelium.models import Event, Intent, Model, Report, RuntimeName
from modelium.ports import Stage
from modelium.routing.switchboard import Switchboard
from modelium.stages.inline import InlineSteps
from modelium.stages.launcher import StageLauncher
from modelium.stages.owners import RETRY_LIMIT_S
from modelium.stages.runtime_monitor import RuntimeMonitor
from modelium.stages.services import Services
from modelium.stages.settling import converge
from modelium.stages.table import STAGES
from modelium.store import AsyncStore, Store
from modelium.traffic import TrafficBook
from tests import postgresql
from tests.databases import migrated, never_sync
from tests.fakes.clock import FakeClock
from tests.fakes.devices import FixedInventory
from tests.fakes.llm import Endpoint, Player, endpoint
from tests.fakes.runtime import MemoryRuntime
from tests.fakes.serving import brisk
from tests.invariants import Scene, violations
from tests.samples import tiny_onnx

never_sync()
brisk()

DEADLINE_S = 60.0
"""For whatever a test waits for: only a test that fails waits that long."""


class World:
    """Services, the fakes behind them, and what a test waits for.

    Time is that of ``clock``: it stands still but for the pauses that stages make.
    """

    def __init__(self, folder: Path, clock: FakeClock | None = None) -> None:
        """Open everything in ``folder``; belongs to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._written = asyncio.Event()
        self.clock = clock or FakeClock()
        self.runtime = MemoryRuntime()
        self.devices = FixedInventory()
        self.signals = Signals()
        self.heard: list[Event] = []
        """All events, in order."""
        self.ran: list[tuple[Stage, dict[str, Any]]] = []
        """All stages that were begun through the launcher, with their parameters."""
        self.steps = InlineSteps(clock=self.clock, jitter=random.Random(0))
        self.launcher = StageLauncher(runner=_Runner(self))
        self.metrics = Metrics()
        self.database = folder / "state" / "modelium.db"
        self.store = self._open_store(self.database)
        self.services = self._services(config(folder))
        self.incoming = self.services.config.orchestration.incoming_directory
        self.rejected = self.services.config.orchestration.rejected

    async def aclose(self) -> None:
        """End what stages run in the background, and close the store."""
        await self.launcher.aclose()
        self.store.close()

    # --- what a test does -----------------------------------------------------------------

    async def drop(self, name: str = "tiny", *, weight: float = 1.0, **given: Any) -> Report:
        """Put an ONNX model into the drop zone and have it ingested."""
        tiny_onnx(self.incoming / name, weight=weight)
        return await self.launcher.ingest(path=str(self.incoming / name), **given)

    async def load(self, name: str = "tiny") -> Model:
        """Drop a model and wait until it serves, and its run has ended."""
        await self.drop(name)
        await self.settled(name, "ready")
        while name in self.services.owners:  # noqa: ASYNC110 - a few steps
            await asyncio.sleep(0)
        return self.store.model(name)

    async def request(self, name: str = "tiny") -> str:
        """Send a request for a model as the gateway does; return the name that it is served by."""
        async with self.services.switchboard.admit(name) as upstream:
            return upstream.served_name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store's write lock as another process does, longer than anybody waits."""
        engine = self.store._engine

        def impatient(connection: Any, _record: Any, _proxy: Any) -> None:
            connection.execute("PRAGMA busy_timeout=0")

        sa.event.listen(engine, "checkout", impatient)
        with closing(sqlite3.connect(engine.url.database or "", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")
        sa.event.remove(engine, "checkout", impatient)

    async def converge(self) -> None:
        """Have the control loop settle every orphan that there is; return after the attempts."""
        for pause in (0.0, RETRY_LIMIT_S):  # a state of transition is an orphan the second time
            self.clock.advance(pause)
            await converge(self.services, self.store.view()[1])
        await self.attempts()

    async def attempts(self) -> None:
        """Wait for the attempts to settle a model that are being made."""
        tasks = [t for t in asyncio.all_tasks() if t.get_name().startswith("settle ")]
        if tasks:
            await asyncio.wait(tasks, timeout=DEADLINE_S)

    def rule(self, **policies: Any) -> None:
        """Change the policy."""
        policy = self.services.policy.model_copy(update=policies)
        self.services = replace(self.services, policy=policy)

    # --- what a test waits for ------------------------------------------------------------

    async def eventually(self, holds: Callable[[], bool]) -> None:
        """Wait until ``holds``; it is asked again whenever something was written to the store."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                self._written.clear()
                if holds():
                    return
                await self._written.wait()

    async def settled(self, model: str, *states: str) -> str:
        """Wait until ``model`` is in one of ``states``; a ready one until requests are let in."""

        def holds() -> bool:
            found = self.store.find(model)
            routed = self.services.switchboard.upstream(model) is not None
            return (
                found is not None and found.state in states and (routed or found.state != "ready")
            )

        await self.eventually(holds)
        return self.store.model(model).state

    async def until(self, model: str, holds: Callable[[Model], bool]) -> Model:
        """Wait until ``holds`` of ``model``."""
        await self.eventually(lambda: holds(self.store.model(model)))
        return self.store.model(model)

    async def ended(self, intent: Intent) -> Intent:
        """Wait until ``intent`` has ended, and return it as it is then."""
        await self.eventually(lambda: self.store.intents.get(intent.id).state != "pending")
        return self.store.intents.get(intent.id)

    async def event(self, kind: str) -> Event:
        """Wait for the first event of ``kind``."""
        await self.eventually(lambda: any(event.kind == kind for event in self.heard))
        return next(event for event in self.heard if event.kind == kind)

    async def idle(self) -> None:
        """Let every task run until it waits for a thread, for time or for another task."""
        for _ in range(20):
            await asyncio.sleep(0)

    # --- what a test reads ----------------------------------------------------------------

    def kinds(self) -> list[tuple[str, str | None]]:
        """Return kind and model of all events so far."""
        return [(event.kind, event.model) for event in self.heard]

    def exposed(self) -> str:
        """Return the metrics as Prometheus scrapes them."""
        return self.metrics.render().decode()

    def scene(self) -> Scene:
        """Return what the checker of invariants looks at."""
        return Scene(
            database=self.database,
            repository=self.services.repository.published,
            incoming=self.incoming,
            rejected=self.rejected,
            now=self.clock.time(),
            devices={each.id: each.total_bytes for each in self.services.devices.snapshot()},
            held=tuple((self.runtime.name.value, name) for name in self.runtime.held),
        )

    # --- how it is built ------------------------------------------------------------------

    def _open_store(self, file: Path) -> Store:
        store = Store.open(f"sqlite:///{migrated(file)}", now=self.clock.time, on_event=self._hear)
        sa.event.listen(store._engine, "checkin", self._on_checkin)
        return store

    def _hear(self, event: Event) -> None:
        self.heard.append(event)
        self._loop.call_soon_threadsafe(self._written.set)

    def _on_checkin(self, connection: Any, record: Any) -> None:
        """Wake who waits where the transaction that has just ended wrote something."""
        if connection is not None and connection.total_changes != record.info.get("changes", 0):
            record.info["changes"] = connection.total_changes
            self._loop.call_soon_threadsafe(self._written.set)

    def _services(self, settings: Config) -> Services:
        policy = settings.policy()
        runtimes = {self.runtime.name: self.runtime}
        return Services(
            config=settings,
            policy=policy,
            store=AsyncStore(self.store),
            repository=ModelRepository(config=settings.orchestration, teams=settings.teams),
            switchboard=Switchboard(
                traffic=TrafficBook(clock=self.clock),
                listener=self.signals,
                metrics=self.metrics,
                max_waiting_per_model=8,
                max_wait_s=DEADLINE_S,
            ),
            devices=self.devices,
            runtimes=runtimes,
            runtime_monitor=RuntimeMonitor(runtimes=runtimes, policy=policy),
            brain=RulePlanner(),
            launcher=self.launcher,
            telemetry=self.metrics,
            clock=self.clock,
        )


class _Runner:
    """Runs stages as `InlineRunner` does, with steps that are retried in the world's time."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def run(self, stage: Stage, **parameters: Any) -> Report:
        world = self._world
        world.ran.append((stage, parameters))
        return await STAGES[stage](world.services, **parameters, steps=world.steps)


def config(folder: Path, **policies: object) -> Config:
    return Config.model_validate(
        {
            "orchestration": {
                "model_repository": str(folder / "repository"),
                "incoming_directory": str(folder / "incoming"),
                "node": "here",
                "policies": {"min_residency_seconds": 0.0, **policies},
            },
            "ray_serve": {"enabled": True},
            "gateway": {"drain_grace_seconds": 0.0},
        }
    )


@pytest.fixture(scope="session")
def server() -> Iterator[postgresql.Server]:
    """A PostgreSQL server; tests that share it are in one group of xdist."""
    with postgresql.server() as started:
        yield started


@pytest.fixture
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A world, whose invariants still hold after the test, unless it is ``unfinished``."""
    opened = World(tmp_path)
    await opened.services.runtime_monitor.observe({})
    yield opened
    await opened.aclose()
    if not request.node.get_closest_marker("unfinished"):
        assert not (found := violations(opened.scene())), "\n".join(found)


class Advised:
    """A world whose brain asks a scripted endpoint."""

    def __init__(self, world: World, stack: AsyncExitStack) -> None:
        self.world = world
        self._stack = stack

    async def played_by(self, player: Player, *, triton: bool = False) -> Endpoint:
        """Have ``player`` answer as the LLM.

        ``triton``: a second runtime that could serve the drop, and is the rules' choice.
        """
        fake = await self._stack.enter_async_context(endpoint(player))
        if triton:
            await self._add_triton()
        services = self.world.services
        store = services.store.blocking
        brain = AdvisedBrain(
            rules=RulePlanner(),
            agent=Agent(
                endpoint=Client(base_url=fake.base_url, model="judge", api_key="sk-secret"),
                clock=services.clock,
                budget=Budget(seconds=DEADLINE_S, rounds=4, tokens=20_000),
            ),
            clock=services.clock,
            history=lambda model, limit: store.decisions.newest(model=model, limit=limit),
        )
        section = BrainSection(base_url=fake.base_url, model="judge")
        config = services.config.model_copy(update={"brain": section})
        self.world.services = replace(services, brain=brain, config=config)
        return fake

    async def drop(self, name: str = "tiny", **given: Any) -> None:
        """Drop a model whose card says that it serves production traffic."""
        folder = self.world.incoming / name
        tiny_onnx(folder)
        (folder / "README.md").write_text("Serves production traffic.")
        await self.world.launcher.ingest(path=str(folder), **given)

    async def _add_triton(self) -> None:
        services = self.world.services
        other = MemoryRuntime()
        other.name = RuntimeName.TRITON
        config = services.config.model_copy(update={"triton": Triton(enabled=True)})
        runtimes = {**services.runtimes, other.name: other}
        runtime_monitor = RuntimeMonitor(runtimes=runtimes, policy=config.policy())
        self.world.services = replace(
            services,
            config=config,
            policy=config.policy(),
            runtimes=runtimes,
            runtime_monitor=runtime_monitor,
        )
        await runtime_monitor.observe({})


@pytest.fixture
async def advised(world: World) -> AsyncIterator[Advised]:
    async with AsyncExitStack() as stack:
        yield Advised(world, stack)
