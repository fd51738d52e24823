"""One real Prefect server for all tests here, and a service's Prefect side on it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import temporary_settings

from flows.runner.peers import Peers
from flows.runner.registration import MANIFEST
from flows.runner.server import EmbeddedServer
from flows.runner.service import PrefectService
from flows.table import FLOWS
from modelium.clock import SystemClock
from modelium.config import Config, Orchestration, Prefect
from modelium.models import Report
from modelium.ports import Stage, Steps
from modelium.stages.services import Services
from modelium.stages.sweeps import Schedule

SERVER_START_S = 90.0
PATIENCE_S = 60.0
AUTH = "tests:of-the-shared-server"

R = TypeVar("R")

Body = Callable[..., Awaitable[Report]]


class Scenes:
    """Six stages whose behaviour each test sets, and what they were called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Stage, dict[str, Any]]] = []
        self.bodies: dict[Stage, Body] = {}
        self.table = {stage: self._stage(stage) for stage in STAGES}

    def play(self, stage: Stage, body: Body) -> None:
        self.bodies[stage] = body

    def seen(self, stage: Stage) -> list[dict[str, Any]]:
        return [parameters for called, parameters in self.calls if called == stage]

    def _stage(self, stage: Stage) -> Body:
        async def run(services: Services, *, steps: Steps, **parameters: Any) -> Report:
            self.calls.append((stage, parameters))
            body = self.bodies.get(stage)
            if body:
                return await body(steps=steps, **parameters)
            return Report(stage=stage, outcome="nothing", model=parameters.get("model"))

        return run


STAGES: tuple[Stage, ...] = ("ingest", "analyze", "decide", "load", "monitor", "evict")


class Server:
    """An `EmbeddedServer` on a thread of its own, for tests of any event loop."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self._server = EmbeddedServer(
            config=Prefect(port=0),
            folder=folder,
            clock=SystemClock(),
            environ={
                **{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
                "PREFECT_SERVER_API_AUTH_STRING": AUTH,
                **environ,
            },
        )
        self.api_url = self._server.api_url
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()))
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._up = threading.Event()

    def __enter__(self) -> Server:
        self._thread.start()
        self._up.wait()
        deadline = time.monotonic() + SERVER_START_S
        while True:
            try:
                if httpx.get(f"{self.api_url}/health", timeout=2).is_success:
                    return self
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    self.__exit__()
                    raise
            time.sleep(0.1)

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with self._server:
            self._up.set()
            await self._stop.wait()


@pytest.fixture(scope="session")
def api_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Server(tmp_path_factory.mktemp("prefect")) as server:
        yield server.api_url


@pytest.fixture
async def client(api_url: str) -> AsyncIterator[PrefectClient]:
    with temporary_settings({"api.url": api_url, "api.auth_string": AUTH}):
        async with get_client() as client:
            yield client


@pytest.fixture
def scenes() -> Scenes:
    return Scenes()


@asynccontextmanager
async def living(
    api_url: str,
    scenes: Scenes,
    folder: Path,
    follow: Callable[[Schedule | None], None] = lambda _: None,
    peers: Peers | None = None,
) -> AsyncIterator[PrefectService]:
    home = PrefectService(
        flows=FLOWS,
        config=Config(
            prefect=Prefect(api_url=api_url),
            orchestration=Orchestration(
                state_directory=folder, node=peers.node if peers else "node-a"
            ),
        ),
        stages=scenes.table,
        services=lambda: cast(Services, None),
        clock=SystemClock(),
        environ={"PREFECT_API_AUTH_STRING": AUTH},
        follow=follow,
        peers=peers,
    )
    async with home:
        await asyncio.wait_for(home.ready(), 60)
        yield home


@pytest.fixture
async def home(api_url: str, scenes: Scenes, tmp_path: Path) -> AsyncIterator[PrefectService]:
    async with living(api_url, scenes, tmp_path) as home:
        yield home


async def ask_for(client: PrefectClient, stage: Stage, **parameters: Any) -> FlowRun:
    """What `prefect deployment run` and the UI do."""
    deployment = await client.read_deployment_by_name(f"{stage}/{stage}")
    return await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)


async def ended(client: PrefectClient, run_id: UUID) -> FlowRun:
    """The run once it is in a final state."""
    return await until(client, run_id, lambda run: bool(run.state and run.state.is_final()))


async def until(client: PrefectClient, run_id: UUID, holds: Callable[[FlowRun], bool]) -> FlowRun:
    async def found() -> FlowRun | None:
        run = await client.read_flow_run(run_id)
        return run if holds(run) else None

    return await eventually(found)


async def only_run(client: PrefectClient, name: str) -> FlowRun:
    """The single run of that name, once it ended."""
    named = FlowRunFilter.model_validate({"name": {"any_": [name]}})

    async def found() -> FlowRun | None:
        runs = await client.read_flow_runs(flow_run_filter=named)
        assert len(runs) <= 1
        return next((run for run in runs if run.state and run.state.is_final()), None)

    return await eventually(found)


async def eventually(found: Callable[[], Awaitable[R | None]]) -> R:
    """What ``found`` returns once it is true."""
    async with asyncio.timeout(PATIENCE_S):
        while not (answer := await found()):  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.02)
    return answer


async def shell(*arguments: str, **environment: str) -> tuple[int | None, str]:
    """Prefect's own CLI, from the project's folder; returns its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "prefect", *arguments),
        cwd=MANIFEST.parents[1],
        env={**os.environ, "PREFECT_API_AUTH_STRING": AUTH, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 2 * PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, output.decode()


def by_id(run_id: UUID) -> FlowRunFilter:
    return FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
