"""The gateway listens before the rest has come up, and a sick runtime keeps nothing from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from modelium.app import assembly, service
from modelium.app.drivers import connected
from modelium.config import Config
from modelium.models import Priority, RuntimeStatus
from modelium.stages import runtime_monitor
from modelium.store import Store
from tests.engines import free_port
from tests.fakes.runtime import MemoryRuntime
from tests.modelium.conftest import config as base

pytestmark = pytest.mark.slow

WITHIN_S = 60.0


class Unreachable(MemoryRuntime):
    """Connects and answers only once a test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()

    async def __aenter__(self) -> MemoryRuntime:
        await self.answers.wait()
        return self

    async def status(self) -> RuntimeStatus:
        await self.answers.wait()
        return await super().status()


def configured(folder: Path) -> Config:
    """Return a configuration that serves on a free port, with a model registered."""
    given = base(folder).model_dump(mode="json", exclude_unset=True)
    given["gateway"] |= {"host": "127.0.0.1", "port": free_port()}
    given["orchestration"] |= {
        "state_directory": str(folder / "state"),
        "metrics": {"prometheus_enabled": False},
    }
    given |= {"prefect": {"enabled": False}}
    made = Config.model_validate(given)
    made.orchestration.state.mkdir(parents=True)
    store = Store.open(made.store_url(), now=lambda: 1.0)
    store.register(
        "tiny",
        path=folder / "repository" / "tiny",
        digest="sha256:1",
        team=None,
        priority=Priority.LOW,
        priority_ceiling=Priority.HIGH,
        pinned=False,
    )
    store.states.mark_unservable("tiny", reason="so that nothing is loaded")
    store.close()
    return made


@asynccontextmanager
async def starting(config: Config) -> AsyncIterator[asyncio.Event]:
    """Start the service beside the body; yields what is set once it has started."""
    up, stop = asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        async with service.running(config, environ={}):
            up.set()
            await stop.wait()

    serving = asyncio.create_task(serve())
    try:
        yield up
    finally:
        stop.set()
        await serving


async def answered(http: httpx.AsyncClient, path: str) -> int:
    """Return the status of ``path``, asked until somebody listens."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                return (await http.get(path)).status_code
            except httpx.ConnectError:
                await asyncio.sleep(0.01)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Unreachable:
    one = Unreachable()
    monkeypatch.setattr(assembly, "build_drivers", lambda *_args: {one.name: one})
    return one


async def test_requests_are_held_until_what_they_are_for_has_come_up(
    tmp_path: Path, runtime: Unreachable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_monitor, "LATE_S", WITHIN_S)
    monkeypatch.setattr(runtime_monitor, "DEADLINE_S", WITHIN_S)
    config = configured(tmp_path)
    url = f"http://127.0.0.1:{config.gateway.port}"
    async with (
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=WITHIN_S) as http,
        starting(config) as up,
    ):
        assert await answered(http, "/healthz") == 200
        assert await answered(http, "/v2/health/live") == 200
        assert await answered(http, "/v2/health/ready") == 503
        body = {"inputs": []}
        unknown = await http.post("/v2/models/nobody/infer", json=body)
        assert unknown.status_code == 404, "what is not registered is refused at once"
        held = asyncio.create_task(http.post("/v2/models/tiny/infer", json=body))
        done, _ = await asyncio.wait({held}, timeout=0.2)
        assert not done and not up.is_set()
        runtime.answers.set()
        async with asyncio.timeout(WITHIN_S):
            await up.wait()
        assert await answered(http, "/v2/health/ready") == 200
        assert not held.done(), "it waits for its model from now on"
        held.cancel()


async def test_a_runtime_that_does_not_answer_keeps_the_service_from_nothing(
    tmp_path: Path, runtime: Unreachable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_monitor, "LATE_S", 0.05)
    config = configured(tmp_path)
    url = f"http://127.0.0.1:{config.gateway.port}"
    async with (
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=WITHIN_S) as http,
        starting(config) as up,
    ):
        async with asyncio.timeout(WITHIN_S):
            await up.wait()
        assert not runtime.answers.is_set()
        assert await answered(http, "/v2/health/ready") == 200
        (shown,) = (await http.get("/api/v1/status")).json()["runtimes"]
        assert not shown["healthy"] and "no answer" in shown["detail"]


async def test_a_runtime_that_cannot_be_connected_to_ends_nothing() -> None:
    class Broken(MemoryRuntime):
        left = False

        async def __aenter__(self) -> MemoryRuntime:
            raise OSError(24, "Too many open files")

        async def __aexit__(self, *exc: object) -> None:
            self.left = True

    broken, hanging = Broken(), Unreachable()
    async with connected([broken, hanging]):
        await asyncio.sleep(0)
    assert broken.left
