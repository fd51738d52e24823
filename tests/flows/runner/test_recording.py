"""What a stage leaves behind on a real Prefect server, and what it gives its caller."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
)
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.states import Cancelling
from prefect.utilities.callables import parameter_schema

from flows.runner.service import PrefectService
from flows.table import FLOWS
from modelium.errors import DropRejected, InputError, PermanentError, Unavailable
from modelium.models import Report, RuntimeName
from modelium.ports import Steps
from modelium.stages.launcher import StageLauncher
from tests.flows.conftest import Scenes, by_id, ended, eventually, only_run

pytestmark = pytest.mark.real


async def task_runs(client: PrefectClient, run: FlowRun, count: int) -> list[TaskRun]:
    """Its task runs; they arrive as events, a little later than the run itself."""

    async def complete() -> list[TaskRun] | None:
        found = await client.read_task_runs(flow_run_filter=by_id(run.id))
        final = all(task.state and task.state.is_final() for task in found)
        return found if final and len(found) >= count else None

    return await eventually(complete)


async def test_a_run_tells_what_happened_where_people_look(
    home: PrefectService, scenes: Scenes, client: PrefectClient
) -> None:
    async def load(*, steps: Steps, model: str, **_: Any) -> Report:
        return Report(
            stage="load",
            outcome="ready",
            model=model,
            runtime=RuntimeName.RAY_SERVE,
            devices=("node-a/cpu",),
            reason="fits <b>here</b>",
            details={"bytes": 7, "tried": ["a", "b"]},
        )

    scenes.play("load", load)
    report = await home.runner.run("load", model="Look.At-Me")
    assert report.outcome == "ready"

    run = await only_run(client, "load Look.At-Me")
    assert {"model:Look.At-Me", "runtime:ray_serve", "device:node-a/cpu"} <= set(run.tags)
    assert run.state is not None
    assert run.state.is_completed()
    assert run.state.message == "ready: fits <b>here</b>"
    assert run.work_queue_name == "default"
    (artifact,) = await client.read_artifacts(
        artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["load-look-at-me"]))
    )
    assert artifact.flow_run_id == run.id
    assert isinstance(artifact.data, str)
    assert "node\\-a/cpu" in artifact.data
    assert "<b>" not in artifact.data


async def test_each_step_is_a_task_run_of_its_name(
    home: PrefectService, scenes: Scenes, client: PrefectClient
) -> None:
    async def double(number: int) -> int:
        return 2 * number

    async def analyze(*, steps: Steps, model: str) -> Report:
        first = await steps("read", double, 1)
        second, third = await asyncio.gather(
            steps("left", double, first), steps("right", double, number=first)
        )
        return Report(stage="analyze", outcome="known", model=model, reason=f"{second + third}")

    scenes.play("analyze", analyze)
    report = await home.runner.run("analyze", model="steps")
    assert report.reason == "8"
    run = await only_run(client, "analyze steps")
    names = {task.name.rpartition("-")[0] for task in await task_runs(client, run, 3)}
    assert names == {"read", "left", "right"}


async def test_only_transient_failures_of_a_step_are_retried(
    home: PrefectService, scenes: Scenes, client: PrefectClient
) -> None:
    counts = {"hiccup": 0, "wrong": 0}

    async def fail_once(name: str, error: Exception) -> str:
        counts[name] += 1
        if counts[name] == 1:
            raise error
        return name

    async def decide(*, steps: Steps, **_: Any) -> Report:
        await steps("hiccup", fail_once, "hiccup", Unavailable("not now"))
        await steps("wrong", fail_once, "wrong", InputError("fix me"))
        raise AssertionError

    scenes.play("decide", decide)
    with pytest.raises(InputError, match="fix me"):
        await home.runner.run("decide", model="retry")
    assert counts == {"hiccup": 2, "wrong": 1}
    run = await only_run(client, "decide retry")
    counted = {task.name.rpartition("-")[0]: task for task in await task_runs(client, run, 2)}
    assert counted["hiccup"].run_count == 2
    assert counted["wrong"].run_count == 1


async def test_the_callers_error_is_the_stages_own(
    home: PrefectService, scenes: Scenes, client: PrefectClient
) -> None:
    error = DropRejected("a pickle", reason="pickle", approvable=True)

    async def ingest(*, steps: Steps, **_: Any) -> Report:
        raise error

    scenes.play("ingest", ingest)
    with pytest.raises(DropRejected) as caught:
        await home.runner.run("ingest", path="/drops/evil")
    assert caught.value is error
    run = await only_run(client, "ingest evil")
    assert run.state is not None
    assert run.state.is_failed()
    assert run.state.message == "pickle: a pickle"


async def test_a_bug_in_a_stage_reaches_caller_and_record(
    home: PrefectService, scenes: Scenes, client: PrefectClient
) -> None:
    async def evict(*, steps: Steps, **_: Any) -> Report:
        raise ZeroDivisionError("oops")

    scenes.play("evict", evict)
    with pytest.raises(ZeroDivisionError):
        await home.runner.run("evict", models=["bug-a", "bug-b"])
    run = await only_run(client, "evict bug-a, bug-b")
    assert run.state is not None
    assert run.state.message == "ZeroDivisionError: oops"
    assert {"model:bug-a", "model:bug-b"} <= set(run.tags)


async def test_a_launched_run_is_never_up_for_a_worker(
    home: PrefectService, scenes: Scenes, client: PrefectClient
) -> None:
    await home.runner.run("load", model="mine")
    run = await only_run(client, "load mine")
    names = [state.name for state in await client.read_flow_run_states(run.id)]
    assert names == ["Pending", "Running", "Completed"]
    assert len(scenes.seen("load")) == 1


async def test_prefect_leaves_the_services_signals_alone(
    home: PrefectService, scenes: Scenes
) -> None:
    seen = []

    async def evict(*, steps: Steps, **_: Any) -> Report:
        seen.append(signal.getsignal(signal.SIGTERM))
        return Report(stage="evict", outcome="nothing")

    scenes.play("evict", evict)
    before = signal.getsignal(signal.SIGTERM)
    await home.runner.run("evict")
    assert seen == [before]


async def test_start_records_too(home: PrefectService, client: PrefectClient) -> None:
    launcher = StageLauncher(runner=home.runner)
    launcher.start(launcher.load(model="background"))
    await only_run(client, "load background")


async def test_cancelling_the_caller_cancels_the_stage_and_its_run(
    home: PrefectService, scenes: Scenes, client: PrefectClient
) -> None:
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned.set()

    async def load(*, steps: Steps, **_: Any) -> Report:
        await steps("hang", hang)
        raise AssertionError

    scenes.play("load", load)
    caller = asyncio.create_task(home.runner.run("load", model="given-up"))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert cleaned.is_set()
    run = await only_run(client, "load given-up")
    assert run.state is not None
    assert run.state.is_cancelled()


async def test_an_operators_cancellation_stops_the_stage_and_is_an_error_to_the_caller(
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
    caller = asyncio.create_task(home.runner.run("load", model="unwanted"))
    await begun.wait()
    (run,) = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"name": {"any_": ["load unwanted"]}})
    )
    await client.set_flow_run_state(run.id, Cancelling())
    with pytest.raises(PermanentError, match="cancelled in Prefect"):
        await caller
    assert cleaned.is_set()
    final = await ended(client, run.id)
    assert final.state is not None
    assert final.state.is_cancelled()


@pytest.mark.parametrize("name", sorted(FLOWS))
def test_every_parameter_is_explained_in_the_form(name: str) -> None:
    schema = parameter_schema(FLOWS[name].fn)  # type: ignore[index]
    assert all(field.get("description") for field in schema.properties.values())
