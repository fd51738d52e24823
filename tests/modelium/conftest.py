"""A whole Modelium without Prefect and HTTP: real store, files, planner and policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agents.rules.planner import RulePlanner
from modelium.clock import SystemClock
from modelium.config import Config
from modelium.control.signals import Signals
from modelium.devices import detect
from modelium.intake.repository import Depot
from modelium.metrics import Metrics
from modelium.models import GIB, Event, Model, RuntimeName
from modelium.routing.switchboard import Switchboard
from modelium.stages.inline import InlineRunner
from modelium.stages.launcher import StageLauncher
from modelium.stages.runtime_monitor import RuntimeMonitor
from modelium.stages.services import Services, current, provide
from modelium.stages.table import STAGES
from modelium.store import AsyncStore, Store
from modelium.traffic import TrafficBook
from tests.fakes.runtime import MemoryRuntime


class World:
    """Services and the parts behind them."""

    def __init__(
        self,
        services: Services,
        runtime: MemoryRuntime,
        signals: Signals,
        heard: list[Event] | None = None,
    ) -> None:
        self.services = services
        self.signals = signals
        self.heard = heard if heard is not None else []
        self.runtime = runtime
        self.store = services.store.blocking
        self.incoming = services.config.orchestration.incoming_directory

    async def settled(self, model: str, *states: str) -> str:
        """Wait until ``model`` is in one of ``states``."""
        async with asyncio.timeout(20):
            while True:
                state = self.store.model(model).state if model in self.store.names() else None
                # Requests are let in a moment after the store says ready.
                routed = self.services.switchboard.upstream(model) is not None
                if state in states and (state != "ready" or routed):
                    return state
                await asyncio.sleep(0.02)

    async def until(self, model: str, holds: Callable[[Model], bool]) -> Model:
        """Wait until ``holds`` of ``model``."""
        async with asyncio.timeout(20):
            while not holds(record := self.store.model(model)):  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.02)
        return record


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
            "gateway": {"drain_grace_seconds": 0.5},
        }
    )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = SystemClock()
    settings = config(tmp_path)
    runtime = MemoryRuntime()
    runtimes = {RuntimeName.RAY_SERVE: runtime}
    heard: list[Event] = []
    store = Store.open(
        f"sqlite:///{tmp_path}/state/modelium.db", now=clock.time, on_event=heard.append
    )
    launcher = StageLauncher(runner=InlineRunner(stages=STAGES, services=current))
    policy = settings.policy()
    signals, metrics = Signals(), Metrics()
    services = Services(
        config=settings,
        policy=policy,
        store=AsyncStore(store),
        repository=Depot(config=settings.orchestration),
        switchboard=Switchboard(
            traffic=TrafficBook(clock=clock),
            listener=signals,
            metrics=metrics,
            max_waiting_per_model=8,
            max_wait_s=10.0,
        ),
        devices=detect("here", 8 * GIB),
        runtimes=runtimes,
        runtime_monitor=RuntimeMonitor(runtimes=runtimes, policy=policy),
        brain=RulePlanner(),
        launcher=launcher,
        telemetry=metrics,
        clock=clock,
    )
    provide(services)
    await services.runtime_monitor.observe({})
    yield World(services, runtime, signals, heard)
    await launcher.aclose()
    store.close()
