"""Measures the CPU time of one tick of the control loop: ``python -m bench.loop``.

1,000 models on 64 GPUs, 700 of them loaded and 200 of those requested between two ticks, in a real
store (SQLite). Runtimes and devices answer from memory, so that only Modelium itself is measured.
Goal: under 50 ms for a tick in which nothing is due. The same run measures the parts of a tick and
the baseline: the same planner on the same `Fleet`, without the store. The last lines compare the
median and the longest tick with the goal.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from agents.rules.planner import RulePlanner
from bench.goals import Goal, print_goals
from bench.planner import MODELS, crowded, footprint
from modelium.app.service import GIL_INTERVAL_S
from modelium.clock import SystemClock
from modelium.config import Config
from modelium.control.loop import Loop
from modelium.control.signals import Signals
from modelium.intake.repository import ModelRepository
from modelium.lifecycle import ModelState
from modelium.metrics import Metrics
from modelium.models import Device, DeviceProcess, Fleet, RuntimeName, RuntimeStatus, Trigger
from modelium.ports import EngineStats, Question, Running
from modelium.routing.switchboard import Switchboard
from modelium.stages.inline import InlineRunner
from modelium.stages.launcher import StageLauncher
from modelium.stages.monitor import monitor
from modelium.stages.runtime_monitor import RuntimeMonitor
from modelium.stages.services import Services, provide
from modelium.stages.table import STAGES
from modelium.store import AsyncStore, Store, schema
from modelium.traffic import TrafficBook

ASKED = 200
GOAL_MS = 50.0


class Machine:
    """The devices, and a runtime with the loaded models; both answer from memory.

    Implements `modelium.ports.DeviceInventory` and `modelium.ports.Runtime`.
    """

    name = RuntimeName.VLLM

    def __init__(self, fleet: Fleet) -> None:
        pids = {m.name: 1_000_000 + i for i, m in enumerate(fleet.models)}
        self._running = [
            Running(model=m.name, state="ready", pids=(pids[m.name],))
            for m in fleet.models
            if m.deployment
        ]
        self.counts = {running.model: 0 for running in self._running}
        self._devices = tuple(
            device.model_copy(
                update={
                    "processes": tuple(
                        DeviceProcess(pid=pids[b.model], used_bytes=b.bytes)
                        for b in fleet.bookings_by_device.get(device.id, ())
                    )
                }
            )
            for device in fleet.devices
        )

    def snapshot(self) -> tuple[Device, ...]:
        """Return the devices."""
        return self._devices

    async def status(self) -> RuntimeStatus:
        """Return that the runtime is healthy."""
        return RuntimeStatus(name=self.name, enabled=True, healthy=True)

    async def discover(self, handles: Mapping[str, object]) -> Sequence[Running]:
        """Return the loaded models."""
        return self._running

    async def stats(self) -> Mapping[str, EngineStats]:
        """Return the request counts of the loaded models."""
        return {model: EngineStats(completed=count) for model, count in self.counts.items()}


def fill(store: Store, fleet: Fleet) -> None:
    """Write ``fleet`` into the tables."""
    named = [m.model_dump(mode="json") for m in fleet.models]
    columns = [c.name for c in schema.models.columns]
    with store._engine.begin() as tx:
        tx.execute(
            sa.insert(schema.models), [{k: m[k] for k in columns} | {"reason": "-"} for m in named]
        )
        tx.execute(
            sa.insert(schema.versions),
            [
                {"model": m["name"], **{k: m[k] for k in ("path", "registered_at", "profile")}}
                | {"version": 1, "digest": f"sha256:{m['name']}"}
                for m in named
            ],
        )
        tx.execute(
            sa.insert(schema.deployments),
            [
                {"model": m["name"], "runtime": "vllm", "document": m["deployment"]}
                for m in named
                if m["deployment"]
            ],
        )
        tx.execute(sa.insert(schema.bookings), [b.model_dump() for b in fleet.bookings])


class Scene:
    """The services of a control loop for ``fleet``."""

    def __init__(self, folder: Path, fleet: Fleet) -> None:
        clock = SystemClock()
        config = Config.model_validate(
            {
                "vllm": {"enabled": True},
                "orchestration": {
                    "model_repository": str(folder / "repository"),
                    "incoming_directory": str(folder / "incoming"),
                },
            }
        )
        self.machine = Machine(fleet)
        store = Store.open(f"sqlite:///{folder}/modelium.db", now=clock.time)
        fill(store, fleet)
        runtimes: Any = {RuntimeName.VLLM: self.machine}
        policy, metrics = config.policy(), Metrics()
        self.services = Services(
            config=config,
            policy=policy,
            store=AsyncStore(store),
            repository=ModelRepository(config=config.orchestration),
            switchboard=Switchboard(
                traffic=TrafficBook(clock=clock),
                listener=Signals(),
                metrics=metrics,
                max_waiting_per_model=8,
                max_wait_s=10.0,
            ),
            devices=self.machine,
            runtimes=runtimes,
            runtime_monitor=RuntimeMonitor(runtimes=runtimes, policy=policy),
            brain=RulePlanner(estimate=footprint),
            launcher=StageLauncher(
                runner=InlineRunner(stages=STAGES, services=lambda: self.services)
            ),
            telemetry=metrics,
            clock=clock,
        )
        provide(self.services)
        self._loaded = list(self.machine.counts)
        self._rng = random.Random(3)

    def ask(self, models: int) -> None:
        """Count a request at the gateway and the engine for each of ``models`` loaded models."""
        traffic = self.services.switchboard.traffic
        for model in self._rng.sample(self._loaded, models):
            traffic.on_arrival(model)
            traffic.on_started(model)
            traffic.on_finished(model, latency_s=0.1, failed=False)
            self.machine.counts[model] += 1


async def cpu_ms(scene: Scene, act: Callable[[], Awaitable[object]], ticks: int) -> list[float]:
    """Return the CPU time of ``act`` in all threads, after each of ``ticks`` rounds of requests."""
    took = []
    for _ in range(ticks):
        scene.ask(ASKED)
        begin = time.process_time()
        await act()
        took.append((time.process_time() - begin) * 1000)
    return took[1:]


async def blocked_ms(scene: Scene, act: Callable[[], Awaitable[object]], ticks: int) -> list[float]:
    """Return the longest time that ``act`` blocked the event loop, in each of ``ticks`` rounds."""
    longest = [0.0]

    async def wait() -> None:
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(0)
            longest[-1] = max(longest[-1], (time.perf_counter() - begin) * 1000)

    waiting = asyncio.create_task(wait())
    for _ in range(ticks):
        scene.ask(ASKED)
        longest.append(0.0)
        await act()
    waiting.cancel()
    return longest[2:]


async def run(ticks: int) -> dict[str, float]:
    """Measure everything, in milliseconds."""
    sys.setswitchinterval(GIL_INTERVAL_S)
    fleet = calm(crowded(random.Random(1)))
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), fleet)
        loop = Loop(services=scene.services, signals=Signals())
        await loop.tick()
        gc.freeze()  # as the service does after its start
        tick = await cpu_ms(scene, loop.tick, ticks)
        blocked = await blocked_ms(scene, loop.tick, ticks)
        persist = await cpu_ms(scene, loop.persist, ticks)

        async def after_change() -> None:
            scene.services.store.blocking.rules.set_pinned(fleet.models[0].name, False)
            await loop.tick()

        changed = await cpu_ms(scene, after_change, ticks)
        observe = await cpu_ms(scene, lambda: monitor(scene.services), ticks)
        question = Question(trigger=Trigger.SWEEP, now=fleet.at)

        async def plan() -> None:
            whole = Fleet.model_construct(**dict(fleet))
            await scene.services.brain.decide(question, whole, scene.services.policy)

        baseline = await cpu_ms(scene, plan, ticks)
        scrape = await cpu_ms(scene, lambda: asyncio.to_thread(render, scene), ticks)
        scene.services.store.blocking.close()
    return {
        "models": MODELS,
        "devices": len(fleet.devices),
        "tick_p50_ms": statistics.median(tick),
        "tick_max_ms": max(tick),
        "tick_blocks_the_event_loop_p50_ms": statistics.median(blocked),
        "tick_blocks_the_event_loop_max_ms": max(blocked),
        "tick_after_a_change_p50_ms": statistics.median(changed),
        "persist_p50_ms": statistics.median(persist),
        "monitor_p50_ms": statistics.median(observe),
        "plan_alone_p50_ms": statistics.median(baseline),
        "tick_over_plan": statistics.median(tick) / statistics.median(baseline),
        "scrape_p50_ms": statistics.median(scrape),
        "goal_ms": GOAL_MS,
    }


def render(scene: Scene) -> bytes:
    """Return the text that Prometheus scrapes."""
    telemetry = scene.services.telemetry
    assert isinstance(telemetry, Metrics)
    return telemetry.render()


def calm(fleet: Fleet) -> Fleet:
    """Return ``fleet`` in its usual state: recently used, nothing queued."""
    shift = time.time() - fleet.at
    return fleet.model_copy(
        update={
            "at": fleet.at + shift,
            "models": tuple(
                m.model_copy(
                    update={
                        "state": m.state if m.deployment else ModelState.UNLOADED,
                        "state_since": m.state_since + shift,
                        "traffic": m.traffic.model_copy(update={"in_flight": 0}),
                    }
                )
                for m in fleet.models
            ),
        }
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ticks", type=int, default=20)
    figures = asyncio.run(run(parser.parse_args().ticks))
    json.dump(figures, sys.stdout, indent=2)
    print()
    print_goals(
        *(
            Goal(
                name=f"tick-{which}",
                measured=figures[f"tick_{which}_ms"],
                relation="<",
                required=GOAL_MS,
                unit="ms",
            )
            for which in ("p50", "max")
        )
    )
