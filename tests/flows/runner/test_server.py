"""The embedded server: private, on a port of its own, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from flows.runner.server import EmbeddedServer
from modelium.clock import SystemClock
from modelium.config import Prefect
from modelium.errors import ConfigError

PATIENCE_S = 120.0

PARENT = """
import asyncio, os, sys
from pathlib import Path
from modelium.clock import SystemClock
from modelium.config import Prefect
from flows.runner.server import EmbeddedServer

async def main():
    server = EmbeddedServer(config=Prefect(port=0), folder=Path(sys.argv[1]),
                            clock=SystemClock(), environ=os.environ)
    async with server:
        while server.pid is None:
            await asyncio.sleep(0.02)
        print(server.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}


def server_of(folder: Path, config: Prefect, **environ: str) -> EmbeddedServer:
    return EmbeddedServer(
        config=config, folder=folder, clock=SystemClock(), environ={**clean(), **environ}
    )


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.05)


async def answers(server: EmbeddedServer) -> None:
    async with httpx.AsyncClient(timeout=2) as http:

        async def healthy() -> bool:
            try:
                return (await http.get(f"{server.api_url}/health")).is_success
            except httpx.HTTPError:
                return False

        await eventually(healthy)


async def exists(path: Path) -> None:
    async def there() -> bool:
        return await asyncio.to_thread(path.exists)

    await eventually(there)


async def gone(pid: int) -> None:
    async def dead() -> bool:
        return not await asyncio.to_thread(Path(f"/proc/{pid}").exists)

    await eventually(dead)


@pytest.fixture
async def taken() -> AsyncIterator[int]:
    """A port that something else listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_it_is_not_opened_to_the_network_without_authentication(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="PREFECT_SERVER_API_AUTH_STRING"):
        server_of(tmp_path, Prefect(host="0.0.0.0"))
    opened = server_of(
        tmp_path, Prefect(host="0.0.0.0", port=4242), PREFECT_SERVER_API_AUTH_STRING="u:p"
    )
    assert opened.api_url == "http://127.0.0.1:4242/api"


def test_port_zero_becomes_a_free_one(tmp_path: Path) -> None:
    server = server_of(tmp_path, Prefect(port=0))
    port = int(server.ui_url.rpartition(":")[2])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


async def test_a_taken_port_is_named_and_not_mistaken_for_ours(
    tmp_path: Path, taken: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def complained() -> bool:
        return "set prefect.port" in caplog.text

    async with server_of(tmp_path, Prefect(port=taken)) as server:
        await eventually(complained)
        assert server.pid is None
    assert f"port {taken} is taken" in caplog.text


@pytest.mark.real
async def test_it_is_started_again_when_it_dies_and_ends_with_us(tmp_path: Path) -> None:
    async with server_of(tmp_path, Prefect(port=0, retention_days=2)) as server:
        await answers(server)
        first = server.pid
        assert first is not None
        async with httpx.AsyncClient() as http:
            settings = (await http.get(f"{server.api_url}/admin/settings")).json()["server"]
        assert settings["analytics_enabled"] is False
        assert settings["services"]["db_vacuum"]["retention_period"] == "P2D"
        assert "flow_runs" in settings["services"]["db_vacuum"]["enabled"]
        assert settings["services"]["event_persister"]["enabled"] is False
        os.kill(first, signal.SIGKILL)
        await gone(first)
        await answers(server)
        second = server.pid
        assert second not in (None, first)
    assert second is not None
    await gone(second)


@pytest.mark.real
async def test_it_dies_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        env=clean(),
    )
    assert parent.stdout is not None
    pid = int(await asyncio.wait_for(parent.stdout.readline(), PATIENCE_S))
    # By then the child has long said whose it is.
    await exists(tmp_path / "prefect.db")
    parent.kill()
    await parent.wait()
    await gone(pid)


GARBAGE = """
import threading, time
from flows.runner.server import _collect_garbage

class Cycle:
    def __init__(self):
        self.me = self
    def __del__(self):
        where.add(threading.current_thread().name)

where = set()
threading.Thread(target=_collect_garbage, name="gc", daemon=True).start()
deadline = time.monotonic() + 30
while not where and time.monotonic() < deadline:
    cycles = [Cycle() for _ in range(2000)]
    del cycles
    time.sleep(0.01)
print(*where)
"""


def test_cycles_are_never_collected_on_the_event_loop() -> None:
    output = subprocess.run([sys.executable, "-c", GARBAGE], capture_output=True, check=True)
    assert output.stdout.decode().split() == ["gc"]
