"""CPU of one tick of the control loop: ``python -m bench.loop``.

1,000 models on 64 GPUs, 700 of them loaded and 200 of them asked between two ticks, in a real
store (SQLite); runtimes and devices answer from memory, so what is timed is Modelium's own part.
Goal: under 50 ms a tick where nothing is due. The parts and the memory-less baseline (the same
facts held in one `Fleet`, planned by the same planner) come from the same run.
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
    """The devices, and a runtime that holds the loaded models; both know their facts already.

    See `modelium.ports.DeviceInventory` and `modelium.ports.Runtime`.
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
        """Answer from memory."""
        return self._devices

    async def status(self) -> RuntimeStatus:
        """Answer from memory."""
        return RuntimeStatus(name=self.name, enabled=True, healthy=True)

    async def discover(self, handles: Mapping[str, object]) -> Sequence[Running]:
        """Answer from memory."""
        return self._running

    async def stats(self) -> Mapping[str, EngineStats]:
        """Answer from memory."""
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
    """A service whose loop ticks over ``fleet``."""

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
        """Let requests for some loaded models pass through the gateway."""
        traffic = self.services.switchboard.traffic
        for model in self._rng.sample(self._loaded, models):
            traffic.on_arrival(model)
            traffic.on_started(model)
            traffic.on_finished(model, latency_s=0.1, failed=False)
            self.machine.counts[model] += 1


async def cpu_ms(scene: Scene, act: Callable[[], Awaitable[object]], ticks: int) -> list[float]:
    """CPU of ``act``, all threads, after each of ``ticks`` rounds of requests."""
    took = []
    for _ in range(ticks):
        scene.ask(ASKED)
        begin = time.process_time()
        await act()
        took.append((time.process_time() - begin) * 1000)
    return took[1:]


async def held_ms(scene: Scene, act: Callable[[], Awaitable[object]], ticks: int) -> list[float]:
    """The longest that anything else on the event loop had to wait, in each of ``ticks`` rounds."""
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
    """All figures, in milliseconds of CPU."""
    sys.setswitchinterval(GIL_INTERVAL_S)
    fleet = calm(crowded(random.Random(1)))
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), fleet)
        loop = Loop(services=scene.services, signals=Signals())
        await loop.tick()
        gc.freeze()  # as the service does when it is up
        tick = await cpu_ms(scene, loop.tick, ticks)
        held = await held_ms(scene, loop.tick, ticks)
        keep = await cpu_ms(scene, loop.persist, ticks)

        async def after_change() -> None:
            scene.services.store.blocking.set_pinned(fleet.models[0].name, False)
            await loop.tick()

        changed = await cpu_ms(scene, after_change, ticks)
        look = await cpu_ms(scene, lambda: monitor(scene.services), ticks)
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
        "tick_holds_the_event_loop_p50_ms": statistics.median(held),
        "tick_holds_the_event_loop_max_ms": max(held),
        "tick_after_a_change_p50_ms": statistics.median(changed),
        "keep_p50_ms": statistics.median(keep),
        "look_p50_ms": statistics.median(look),
        "plan_alone_p50_ms": statistics.median(baseline),
        "tick_over_plan": statistics.median(tick) / statistics.median(baseline),
        "scrape_p50_ms": statistics.median(scrape),
        "goal_ms": GOAL_MS,
    }


def render(scene: Scene) -> bytes:
    """What a Prometheus asks for."""
    telemetry = scene.services.telemetry
    assert isinstance(telemetry, Metrics)
    return telemetry.render()


def calm(fleet: Fleet) -> Fleet:
    """``fleet`` as it is most of the time: used not long ago, nothing queued."""
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
    json.dump(asyncio.run(run(parser.parse_args().ticks)), sys.stdout, indent=2)
    print()
