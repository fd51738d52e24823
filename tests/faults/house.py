"""A whole service in virtual time, which can be killed at a point and started again."""

from __future__ import annotations

import asyncio
import functools
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agents.rules.planner import RulePlanner
from modelium.app.background import background
from modelium.config import Config
from modelium.control.demand import Demand
from modelium.control.loop import Loop
from modelium.control.operations import Operations
from modelium.control.recovery import recover
from modelium.control.reload import ConfigSource, Reloader
from modelium.control.signals import Signals
from modelium.intake.repository import ModelRepository
from modelium.metrics import Metrics
from modelium.models import GIB, Device, Report
from modelium.ports import Stage
from modelium.routing.switchboard import Switchboard
from modelium.stages.inline import InlineSteps
from modelium.stages.launcher import StageLauncher
from modelium.stages.runtime_monitor import RuntimeMonitor
from modelium.stages.services import Services
from modelium.stages.table import STAGES
from modelium.store import AsyncStore, Store
from modelium.store.connection import connect
from modelium.traffic import TrafficBook
from tests.faults.edges import watch_commits
from tests.faults.points import Points, stage_task
from tests.faults.runtime import EngineHost
from tests.invariants import Drop, Scene
from tests.invariants.database import Tables, read

HELD_BYTES = 50_000_000
"""What a loaded model takes of the device: as `EngineHost` says in its statistics."""


class Inline(ThreadPoolExecutor):
    """Runs what is handed to it at once, on the event loop: each run has one order."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as exc:
            done.set_exception(exc)
        return done


class LoopClock:
    """`ports.Clock` over the event loop's virtual time; it goes on from life to life."""

    def __init__(self) -> None:
        """Start at the machine's time: files have that."""
        self._began = time.time()
        self._lived = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readings = 0
        self.jumped = 0.0
        """Seconds by which the wall clock was set."""

    def enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Go on in another event loop."""
        self._lived = self.monotonic()
        self._loop = loop

    def system_time(self) -> float:
        return self.time()

    def monotonic(self) -> float:
        return self._lived + (self._loop.time() if self._loop else 0.0)

    def time(self) -> float:
        self._readings += 1
        return self._began + self.jumped + self.monotonic() + self._readings * 1e-6

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Machine:
    """What outlives the service: folders, database, engines, time, and what was dropped."""

    def __init__(self, folder: Path, *, gib: float = 8.0) -> None:
        """Use ``folder``; the device has ``gib`` GiB."""
        self.folder = folder
        self.database = folder / "state" / "modelium.db"
        self.database.parent.mkdir(parents=True)
        self.database.write_bytes(_migrated())
        self.points = Points()
        self.runtime = EngineHost(self.points)
        self.clock = LoopClock()
        self.total = int(gib * GIB)
        self.drops: list[Drop] = []
        self.config = config(folder)

    def put(self, name: str, write: Callable[[Path], object], *, place: Path | None = None) -> Path:
        """Put what ``write`` writes into the drop zone, or into ``place``, at once."""
        armed, self.points.armed = self.points.armed, False
        aside = self.folder / "aside" / name
        aside.parent.mkdir(exist_ok=True)
        write(aside)
        target = (place or self.config.orchestration.incoming_directory) / name
        target.parent.mkdir(exist_ok=True)
        aside.replace(target)  # which no fault is at
        self.points.armed = armed
        return target

    def tables(self) -> Tables:
        """Return what the database says."""
        return read(self.database)

    def state(self, model: str) -> str | None:
        """Return the state of ``model`` in the database."""
        rows = self.tables().models
        return next((row["state"] for row in rows if row["name"] == model), None)

    def snapshot(self) -> tuple[Device, ...]:
        free = max(0, self.total - HELD_BYTES * len(self.runtime.held))
        return (
            Device(
                node="here",
                uuid="cpu",
                kind="cpu",
                name="a CPU",
                total_bytes=self.total,
                free_bytes=free,
            ),
        )

    def scene(self, **given: Any) -> Scene:
        """Return what the checker looks at; ``given`` are fields of it."""
        orchestration = self.config.orchestration
        return Scene(
            database=self.database,
            repository=orchestration.model_repository,
            incoming=orchestration.incoming_directory,
            rejected=orchestration.rejected,
            now=self.clock.time(),
            devices={"here/cpu": self.total},
            held=tuple((self.runtime.name.value, name) for name in self.runtime.held),
            drops=tuple(self.drops),
            **given,
        )


class House:
    """One life of the service on a machine. Belongs to one event loop."""

    def __init__(self, machine: Machine) -> None:
        """Open the store and the folders, as the composition root does."""
        self.machine = machine
        clock, points = machine.clock, machine.points
        self.steps = InlineSteps(clock=clock, jitter=random.Random(0))
        self.launcher = StageLauncher(runner=self)
        engine = connect(f"sqlite:///{machine.database}")
        watch_commits(engine, points)
        self.store = Store(engine=engine, now=clock.time, on_event=lambda _event: None)
        store = AsyncStore(self.store)
        store.threads.readers = store.threads.writers = Inline()
        self.signals, metrics = Signals(), Metrics()
        runtimes = {machine.runtime.name: machine.runtime}
        policy = machine.config.policy()
        self.services = Services(
            config=machine.config,
            policy=policy,
            store=store,
            repository=ModelRepository(config=machine.config.orchestration),
            switchboard=Switchboard(
                traffic=TrafficBook(clock=clock),
                listener=self.signals,
                metrics=metrics,
                max_waiting_per_model=8,
                max_wait_s=60.0,
            ),
            devices=machine,
            runtimes=runtimes,
            runtime_monitor=RuntimeMonitor(runtimes=runtimes, policy=policy),
            brain=RulePlanner(),
            launcher=self.launcher,
            telemetry=metrics,
            clock=clock,
        )

    async def run(self, stage: Stage, **parameters: Any) -> Report:
        """Run a stage, as `InlineRunner` does."""
        stage_task.set(asyncio.current_task())
        return await STAGES[stage](self.services, **parameters, steps=self.steps)

    @asynccontextmanager
    async def lived_in(self) -> AsyncIterator[Operations]:
        """Recover, and run what runs beside the gateway while the body does."""
        reloader = Reloader(services=self.services, signals=self.signals, source=ConfigSource())
        operations = Operations(services=self.services, reloader=reloader)
        await recover(self.services)
        loop = Loop(services=self.services, signals=self.signals)
        demand = Demand(services=self.services, signals=self.signals)
        async with background(self.services, loop, demand, reloader):
            yield operations

    def close(self) -> None:
        """Let go of the database; nothing is committed."""
        self.store.close()


def config(folder: Path) -> Config:
    return Config.model_validate(
        {
            "orchestration": {
                "model_repository": str(folder / "repository"),
                "incoming_directory": str(folder / "incoming"),
                "rejected_directory": str(folder / "rejected"),
                "node": "here",
                "policies": {"min_residency_seconds": 0.0},
                "metrics": {"collection_interval_seconds": 5.0},
            },
            "ray_serve": {"enabled": True},
            "gateway": {"drain_grace_seconds": 5.0},
            "ingest": {"quiet_period_seconds": 1.0, "rescan_interval_seconds": 10.0},
        }
    )


@functools.cache
def _migrated() -> bytes:
    """Return an empty database that is up to date: migrating one takes a while."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "modelium.db"
        Store.open(f"sqlite:///{file}", now=time.time).close()
        return file.read_bytes()
