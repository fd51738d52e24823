"""Runs that end before they begin."""

from __future__ import annotations

import asyncio
import contextvars
from typing import cast

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling, Pending

from flows.runner.executor import Executor
from flows.runner.service import PrefectService
from flows.runner.stage_call import StageCall
from flows.table import FLOWS
from modelium.clock import SystemClock
from modelium.errors import PermanentError
from modelium.stages.services import Services
from tests.flows.conftest import Scenes

pytestmark = pytest.mark.real


@pytest.fixture
def executor() -> Executor:
    return Executor(flows=FLOWS, owner="node-b:1:1", clock=SystemClock())


def call_of(scenes: Scenes, model: str) -> StageCall:
    return StageCall(
        stage="load",
        parameters={"model": model},
        stages=scenes.table,
        services=lambda: cast(Services, None),
        loop=asyncio.get_running_loop(),
        context=contextvars.copy_context(),
    )


async def pending(client: PrefectClient) -> FlowRun:
    deployment = await client.read_deployment_by_name("load/load")
    return await client.create_flow_run_from_deployment(
        deployment.id, parameters={"model": "early"}, state=Pending()
    )


async def test_a_run_cancelled_while_it_waits_for_its_turn_never_begins(
    home: PrefectService, executor: Executor, scenes: Scenes, client: PrefectClient
) -> None:
    run = await pending(client)
    await client.set_flow_run_state(run.id, Cancelling(), force=True)
    call = call_of(scenes, "early")
    await executor.spawn(client, run, call)
    with pytest.raises(PermanentError, match="cancelled in Prefect"):
        await call.wait()
    await executor.record_ends(client)
    final = await client.read_flow_run(run.id)
    assert final.state is not None
    assert final.state.is_cancelled()
    assert not executor.held
    assert scenes.calls == []


async def test_a_run_deleted_under_us_does_not_lose_the_stage(
    home: PrefectService, executor: Executor, scenes: Scenes, client: PrefectClient
) -> None:
    run = await pending(client)
    await client.delete_flow_run(run.id)
    call = call_of(scenes, "orphan")
    await executor.spawn(client, run, call)
    assert (await call.wait()).model == "orphan"
    await executor.record_ends(client)
    assert not executor.held


async def test_parameters_that_the_flow_refuses_end_the_run_and_the_call(
    home: PrefectService, executor: Executor, scenes: Scenes, client: PrefectClient
) -> None:
    run = await pending(client)
    call = call_of(scenes, "x")
    call.parameters = {"nonsense": 1}
    await executor.spawn(client, run, call)
    with pytest.raises(PermanentError):
        await call.wait()
    final = await client.read_flow_run(run.id)
    assert final.state is not None
    assert final.state.is_failed()
    assert scenes.calls == []


async def test_nothing_is_submitted_while_prefect_is_not_connected(
    executor: Executor, scenes: Scenes
) -> None:
    call = call_of(scenes, "x")
    assert not executor.submit(call)
    assert not call.begun
