"""Runs that somebody else asks Prefect for: from a shell, in the UI, by schedule."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.states import AwaitingRetry, Cancelling

from flows.runner.queues import SLOTS
from flows.runner.service import PrefectService
from modelium.errors import Unavailable
from modelium.models import Report
from modelium.ports import Stage, Steps
from modelium.stages.sweeps import Schedule
from tests.flows.conftest import (
    PATIENCE_S,
    Scenes,
    ask_for,
    ended,
    eventually,
    living,
    only_run,
    until,
)

pytestmark = pytest.mark.real

ROUNDS = 9

whereabouts: ContextVar[str] = ContextVar("whereabouts", default="nowhere")


@pytest.fixture
async def gate(scenes: Scenes) -> AsyncIterator[asyncio.Event]:
    """Loads wait for it."""
    gate = asyncio.Event()

    async def load(*, steps: Steps, model: str, **_: Any) -> Report:
        await gate.wait()
        return Report(stage="load", outcome="ready", model=model)

    scenes.play("load", load)
    yield gate
    gate.set()


async def test_a_run_asked_for_elsewhere_is_executed_here(
    home: PrefectService, scenes: Scenes, client: PrefectClient, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = []
    for number in range(ROUNDS):
        asked = await ask_for(client, "load", model=f"asked-{number}")
        run = await ended(client, asked.id)
        assert run.state is not None
        assert run.state.is_completed()
        assert run.created is not None
        assert run.start_time is not None
        waits.append((run.start_time - run.created).total_seconds())
        assert run.name == f"load asked-{number}"
        assert f"model:asked-{number}" in run.tags
    assert scenes.seen("load") == [
        {"model": f"asked-{number}", "decision": None, "trigger": "operator"}
        for number in range(ROUNDS)
    ]
    with capsys.disabled():
        print(
            f"\ncreated → Running: median {statistics.median(waits):.2f} s, max {max(waits):.2f} s"
        )


async def test_a_stage_sees_the_context_that_the_home_was_entered_in(
    api_url: str, scenes: Scenes, client: PrefectClient, tmp_path: Path
) -> None:
    seen = []

    async def analyze(*, steps: Steps, model: str) -> Report:
        seen.append((whereabouts.get(), asyncio.get_running_loop()))
        return Report(stage="analyze", outcome="known", model=model)

    scenes.play("analyze", analyze)
    whereabouts.set("home")
    async with living(api_url, scenes, tmp_path):
        whereabouts.set("elsewhere")
        await ended(client, (await ask_for(client, "analyze", model="a")).id)
    assert seen == [("home", asyncio.get_running_loop())]


async def test_a_failing_stage_is_recorded_and_the_worker_goes_on(
    home: PrefectService, scenes: Scenes, client: PrefectClient
) -> None:
    async def load(*, steps: Steps, model: str, **_: Any) -> Report:
        if model == "bad":
            raise Unavailable("no runtime answers")
        return Report(stage="load", outcome="ready", model=model)

    scenes.play("load", load)
    bad = await ended(client, (await ask_for(client, "load", model="bad")).id)
    good = await ended(client, (await ask_for(client, "load", model="good")).id)
    assert bad.state is not None
    assert bad.state.message == "unavailable: no runtime answers"
    assert good.state is not None
    assert good.state.is_completed()


@pytest.mark.parametrize(("stage", "subject"), [("load", "model"), ("evict", "models")])
async def test_a_retried_run_is_decided_anew(
    home: PrefectService, scenes: Scenes, client: PrefectClient, stage: Stage, subject: str
) -> None:
    """The decision that it was started for was over when it failed."""

    async def fail_once(*, steps: Steps, **given: Any) -> Report:
        if len(scenes.seen(stage)) == 1:
            raise Unavailable("not now")
        return Report(stage=stage, outcome="ready")

    scenes.play(stage, fail_once)
    name: str | list[str] = "again" if subject == "model" else ["again"]
    with pytest.raises(Unavailable):
        await home.runner.run(stage, **{subject: name}, decision="d1")
    run = await only_run(client, f"{stage} again")
    assert run.state is not None
    assert run.state.is_failed()
    await client.set_flow_run_state(run.id, AwaitingRetry())  # as the button in the UI does
    again = await until(client, run.id, lambda run: bool(run.state and run.state.is_completed()))
    assert again.run_count == 2
    assert [given["decision"] for given in scenes.seen(stage)] == ["d1", None]
    assert [given[subject] for given in scenes.seen(stage)] == [name, name]


async def test_cancelling_in_the_ui_stops_the_stage(
    home: PrefectService, scenes: Scenes, client: PrefectClient
) -> None:
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def load(*, steps: Steps, **_: Any) -> Report:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()
        raise AssertionError

    scenes.play("load", load)
    asked = await ask_for(client, "load", model="unwanted")
    await begun.wait()
    await client.set_flow_run_state(asked.id, Cancelling())
    run = await ended(client, asked.id)
    assert cleaned.is_set()
    assert run.state is not None
    assert run.state.is_cancelled()
    assert run.state.message == "cancelled in Prefect"


async def test_loads_wait_for_a_slot_but_sweeps_do_not_wait_for_loads(
    home: PrefectService, scenes: Scenes, client: PrefectClient, gate: asyncio.Event
) -> None:
    loads = [await ask_for(client, "load", model=f"m{i}") for i in range(SLOTS["default"] + 1)]

    async def full() -> bool:
        return len(scenes.seen("load")) == SLOTS["default"]

    await eventually(full)
    for stage in ("monitor", "evict"):
        sweep = await ended(client, (await ask_for(client, stage)).id)
        assert sweep.state is not None
        assert sweep.state.is_completed()
    states = [(await client.read_flow_run(run.id)).state_name for run in loads]
    assert set(states) == {"Running", "Scheduled"}
    assert states.count("Scheduled") == 1
    gate.set()
    for load in loads:
        run = await ended(client, load.id)
        assert run.state is not None
        assert run.state.is_completed()


async def test_sweeps_are_scheduled_every_minute_and_nothing_else_is(
    home: PrefectService, client: PrefectClient
) -> None:
    intervals = {
        deployment.name: [schedule.schedule.interval.total_seconds() for schedule in schedules]  # type: ignore[union-attr]
        for deployment in await client.read_deployments()
        if (schedules := deployment.schedules)
    }
    assert intervals == {"monitor": [60.0], "evict": [60.0]}


async def test_the_schedule_of_evict_is_the_operators_and_is_followed(
    api_url: str, scenes: Scenes, client: PrefectClient, tmp_path: Path
) -> None:
    heard: asyncio.Queue[Schedule | None] = asyncio.Queue()

    async def told(holds: Callable[[Schedule | None], bool]) -> Schedule | None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds(schedule := await heard.get()):
                continue
        return schedule

    async with living(api_url, scenes, tmp_path, follow=heard.put_nowait):
        await told(lambda schedule: schedule == Schedule(interval_s=60.0))
        deployment = await client.read_deployment_by_name("evict/evict")
        (schedule,) = deployment.schedules
        paused_at = time.time()
        await client.update_deployment_schedule(
            deployment.id,
            schedule.id,
            active=False,
            schedule=IntervalSchedule(interval=timedelta(seconds=900)),
        )
        known = await told(lambda schedule: bool(schedule and schedule.paused_since))
        assert known is not None and known.paused_since is not None
        assert abs(known.paused_since - paused_at) < PATIENCE_S
    async with living(api_url, scenes, tmp_path, follow=heard.put_nowait):
        assert await told(lambda schedule: schedule is not None) == known, "a restart changes it"
        await client.update_deployment_schedule(deployment.id, schedule.id, active=True)
        await told(lambda schedule: schedule == Schedule(interval_s=900.0))
        await client.pause_deployment(deployment.id)
        await told(lambda schedule: bool(schedule and schedule.paused_since))
        await client.resume_deployment(deployment.id)
        await client.update_deployment_schedule(
            deployment.id,
            schedule.id,
            schedule=IntervalSchedule(interval=timedelta(seconds=60)),
        )
        await told(lambda schedule: schedule == Schedule(interval_s=60.0))


async def test_leaving_cancels_what_prefect_runs_here(
    api_url: str, scenes: Scenes, client: PrefectClient, tmp_path: Path
) -> None:
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def load(*, steps: Steps, **_: Any) -> Report:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned.set()
        raise AssertionError

    scenes.play("load", load)
    async with living(api_url, scenes, tmp_path):
        asked = await ask_for(client, "load", model="late")
        await begun.wait()
        await until(client, asked.id, lambda run: bool(run.infrastructure_pid))
    assert cleaned.is_set()
    run = await client.read_flow_run(asked.id)
    assert run.state is not None
    assert run.state.is_cancelled()


async def test_the_work_pool_shows_a_worker_at_work(
    home: PrefectService, client: PrefectClient
) -> None:
    async def online() -> bool:
        workers = await client.read_workers_for_work_pool("modelium")
        return [w.name for w in workers if w.status == "ONLINE"] == ["node-a"]

    await eventually(online)


async def test_no_run_is_left_unfinished_by_these_tests(
    home: PrefectService, client: PrefectClient
) -> None:
    unfinished = FlowRunFilter.model_validate(
        {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    )

    async def none() -> bool:
        return not await client.read_flow_runs(flow_run_filter=unfinished)

    await eventually(none)
