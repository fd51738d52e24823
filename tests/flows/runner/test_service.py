"""Prefect goes away, comes back, is killed with us: stages do not care, history recovers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import temporary_settings
from prefect.states import Scheduled

from flows.runner.server import EmbeddedServer
from flows.runner.service import PrefectService
from flows.table import FLOWS
from modelium.clock import SystemClock
from modelium.config import Config, Orchestration, Prefect
from modelium.errors import DropRejected
from modelium.models import Report
from modelium.ports import Stage, Steps
from modelium.stages.services import Services
from tests.flows.conftest import AUTH

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

PATIENCE_S = 120.0

R = TypeVar("R")

KILLED = """
import asyncio, os, sys
from pathlib import Path
from modelium.clock import SystemClock
from modelium.config import Config, Orchestration, Prefect
from flows.runner.service import PrefectService
from flows.table import FLOWS

async def load(services, *, steps, **parameters):
    async def hang():
        print("hangs", flush=True)
        await asyncio.Event().wait()
    await steps("hang", hang)

async def main():
    stages = {stage: load for stage in ("ingest", "analyze", "decide", "load", "monitor", "evict")}
    config = Config(prefect=Prefect(api_url=sys.argv[1]),
                    orchestration=Orchestration(state_directory=Path(sys.argv[2]), node="node-a"))
    async with PrefectService(config=config, flows=FLOWS, stages=stages, services=lambda: None,
                           clock=SystemClock(), environ=os.environ) as home:
        await home.ready()
        await home.runner.run("load", model="doomed")

asyncio.run(main())
"""


class Stages:
    """Loads that wait for ``gate``; everything else has nothing to do."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.loads: list[str] = []
        self.table: dict[Stage, Callable[..., Awaitable[Report]]] = {
            "ingest": self._refuse,
            "analyze": self._nothing,
            "decide": self._nothing,
            "load": self._load,
            "monitor": self._nothing,
            "evict": self._nothing,
        }

    async def _load(self, services: Services, *, steps: Steps, model: str, **_: Any) -> Report:
        self.loads.append(model)

        async def wait() -> str:
            self.begun.set()
            await self.gate.wait()
            return "waited"

        async def after() -> None:
            self.loads.append(f"{model} after")

        assert await steps("wait", wait) == "waited"
        await steps("after", after)
        return Report(stage="load", outcome="ready", model=model)

    async def _refuse(self, services: Services, *, steps: Steps, **_: Any) -> Report:
        raise DropRejected("no", reason="pickle")

    async def _nothing(self, services: Services, *, steps: Steps, **_: Any) -> Report:
        return Report(stage="monitor", outcome="nothing")


@pytest.fixture
def stages() -> Stages:
    return Stages()


def home_of(stages: Stages, folder: Path, **prefect: Any) -> PrefectService:
    return PrefectService(
        flows=FLOWS,
        config=Config(
            prefect=Prefect(**{"port": 0, **prefect}),
            orchestration=Orchestration(state_directory=folder, node="node-a"),
        ),
        stages=stages.table,
        services=lambda: cast(Services, None),
        clock=SystemClock(),
        environ=clean(),
    )


def clean() -> dict[str, str]:
    ours = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return {**ours, "PREFECT_SERVER_API_AUTH_STRING": AUTH, "PREFECT_API_AUTH_STRING": AUTH}


@asynccontextmanager
async def client_of(api_url: str) -> AsyncIterator[PrefectClient]:
    with temporary_settings({"api.url": api_url, "api.auth_string": AUTH}):
        async with get_client() as client:
            yield client


async def eventually(found: Callable[[], Awaitable[R | None]]) -> R:
    async with asyncio.timeout(PATIENCE_S):
        while not (answer := await found()):  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.05)
    return answer


async def final(client: PrefectClient, name: str) -> FlowRun:
    async def found() -> FlowRun | None:
        runs = [run for run in await client.read_flow_runs() if run.name == name]
        return next((run for run in runs if run.state and run.state.is_final()), None)

    return await eventually(found)


def server_pid(home: PrefectService) -> int:
    """The child of this process that serves ``home``."""
    port = home.ui_url.rpartition(":")[2]
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"flows.runner.server" in command and port.encode() in command:
                return int(entry.name)
    raise AssertionError("no embedded server runs")


async def test_stages_run_before_the_server_is_up(stages: Stages, tmp_path: Path) -> None:
    home = home_of(stages, tmp_path)
    stages.gate.set()
    assert (await home.runner.run("load", model="before")).outcome == "ready"
    async with home:
        assert not home.connected
        assert (await home.runner.run("load", model="early")).outcome == "ready"
        with pytest.raises(DropRejected):
            await home.runner.run("ingest", path="/x")


async def test_a_server_killed_mid_run_costs_nothing_but_some_history(
    stages: Stages, tmp_path: Path
) -> None:
    async with home_of(stages, tmp_path) as home:
        await asyncio.wait_for(home.ready(), PATIENCE_S)
        running = asyncio.create_task(home.runner.run("load", model="midway"))
        await stages.begun.wait()
        os.kill(server_pid(home), signal.SIGKILL)
        stages.gate.set()
        report = await asyncio.wait_for(running, PATIENCE_S)
        assert report.outcome == "ready"
        # Whatever became of the record, each step took effect once.
        assert stages.loads == ["midway", "midway after"]

        # At once, and while nothing has noticed yet.
        assert (await home.runner.run("load", model="meanwhile")).outcome == "ready"
        with pytest.raises(DropRejected):
            await home.runner.run("ingest", path="/x")

        async with client_of(home.api_url) as client:

            async def back() -> bool:
                return await client.api_healthcheck() is None and home.connected

            await eventually(back)
            run = await final(client, "load midway")
            assert run.state is not None
            assert run.state.is_completed()
            await home.runner.run("load", model="resumed")
            await final(client, "load resumed")


async def test_a_server_that_hangs_is_not_waited_for_and_gets_the_record_later(
    stages: Stages, tmp_path: Path
) -> None:
    stages.gate.set()
    async with home_of(stages, tmp_path) as home:
        await asyncio.wait_for(home.ready(), PATIENCE_S)
        await home.runner.run("load", model="warm")
        stages.loads.clear()
        server = server_pid(home)
        os.kill(server, signal.SIGSTOP)
        try:
            for model in ("hung", "hung too"):
                assert (await home.runner.run("load", model=model)).outcome == "ready"
        finally:
            os.kill(server, signal.SIGCONT)
        async with client_of(home.api_url) as client:
            for model in ("hung", "hung too"):
                run = await final(client, f"load {model}")
                assert run.state is not None
                assert run.state.is_completed()
        assert stages.loads == ["hung", "hung after", "hung too", "hung too after"]


async def test_after_a_kill_9_unfinished_runs_are_crashed_and_missed_sweeps_dropped(
    stages: Stages, tmp_path: Path
) -> None:
    stages.gate.set()
    server = EmbeddedServer(
        config=Prefect(port=0), folder=tmp_path / "server", clock=SystemClock(), environ=clean()
    )
    async with server:
        doomed = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", KILLED, server.api_url, str(tmp_path / "doomed")),
            stdout=asyncio.subprocess.PIPE,
            env=clean(),
        )
        assert doomed.stdout is not None
        try:
            assert await asyncio.wait_for(doomed.stdout.readline(), PATIENCE_S) == b"hangs\n"
            async with client_of(server.api_url) as client:
                doomed_run = await eventually(lambda: owned(client, "load doomed"))
        finally:
            doomed.kill()
            await doomed.wait()
        async with client_of(server.api_url) as client:
            missed = await client.create_flow_run_from_deployment(
                (await client.read_deployment_by_name("monitor/monitor")).id,
                state=Scheduled(scheduled_time=datetime.now(UTC) - timedelta(hours=1)),
                tags=["auto-scheduled"],
            )
            heir = home_of(stages, tmp_path / "heir", api_url=server.api_url)
            async with heir:
                await asyncio.wait_for(heir.ready(), PATIENCE_S)
                run = await client.read_flow_run(doomed_run.id)
                assert run.state is not None
                assert run.state.is_crashed()
                assert run.state.message == "the Modelium process that executed it no longer exists"
                assert missed.id not in {known.id for known in await client.read_flow_runs()}
                assert (await heir.runner.run("load", model="next")).outcome == "ready"


async def owned(client: PrefectClient, name: str) -> FlowRun | None:
    """The running run of that name that says whose it is."""
    for run in await client.read_flow_runs():
        if run.name == name and run.infrastructure_pid and run.state and run.state.is_running():
            return run
    return None
