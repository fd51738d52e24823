"""The embedded server: private, on a port of its own, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import websockets

from flows.runner.server import EmbeddedServer, inherited
from modelium.clock import SystemClock
from modelium.config import Prefect

pytestmark = pytest.mark.slow

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


def test_credentials_are_made_once_and_are_this_users_alone(tmp_path: Path) -> None:
    first = server_of(tmp_path / "prefect", Prefect(port=0)).auth
    user, _, password = first.partition(":")
    assert user == "modelium"
    assert len(password) >= 32
    assert server_of(tmp_path / "prefect", Prefect(port=0)).auth == first
    assert server_of(tmp_path / "other", Prefect(port=0)).auth != first
    file = tmp_path / "prefect" / "credentials"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert server_of(tmp_path, Prefect(port=0), PREFECT_SERVER_API_AUTH_STRING="u:p").auth == "u:p"


def test_the_child_gets_settings_and_no_secrets() -> None:
    wanted = {"PATH": "/bin", "LC_ALL": "C.UTF-8", "PREFECT_SERVER_LOGGING_LEVEL": "INFO"}
    secrets = {
        "MODELIUM_GATEWAY__TOKEN": "t",
        "AWS_SECRET_ACCESS_KEY": "k",
        "PREFECT_API_AUTH_STRING": "u:p",
        "PREFECT_API_KEY": "k",
        "PREFECT_API_URL": "http://other",
    }
    assert inherited({**wanted, **secrets}) == wanted


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


async def refused_without_credentials(http: httpx.AsyncClient, server: EmbeddedServer) -> None:
    """Every route but health wants credentials, WebSockets too; no page may read an answer."""
    for method, path in (
        ("GET", "/admin/settings"),
        ("POST", "/admin/database/drop"),
        ("POST", "/deployments/filter"),
        ("POST", "/deployments/00000000-0000-0000-0000-000000000000/create_flow_run"),
        ("POST", "/flow_runs/"),
        ("POST", "/automations/"),
        ("POST", "/events"),
        ("DELETE", "/work_pools/modelium"),
        ("POST", "/block_documents/filter"),
    ):
        url = f"{server.api_url}{path}"
        answer = await http.request(method, url, headers={"Host": "evil.example"}, json={})
        assert answer.status_code == 401, (method, path, answer.status_code)
    wrong = await http.get(f"{server.api_url}/admin/settings", auth=("modelium", "guessed"))
    assert wrong.status_code == 401
    foreign = await http.get(f"{server.api_url}/health", headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in foreign.headers
    for path in ("/events/in", "/events/out", "/logs/out", "/task_runs/subscriptions/scheduled"):
        url = f"{server.api_url.replace('http', 'ws')}{path}"
        async with websockets.connect(url, subprotocols=[websockets.Subprotocol("prefect")]) as ws:
            with pytest.raises(websockets.exceptions.ConnectionClosed):
                await ws.send('{"type": "auth", "token": "modelium:guessed"}')
                await ws.recv()
    assert server.pid is not None
    environ = await asyncio.to_thread(Path(f"/proc/{server.pid}/environ").read_bytes)
    assert b"SOMEBODYS_SECRET" not in environ


@pytest.mark.real
async def test_it_is_started_again_when_it_dies_and_ends_with_us(tmp_path: Path) -> None:
    async with server_of(
        tmp_path, Prefect(port=0, retention_days=2), SOMEBODYS_SECRET="x"
    ) as server:
        await answers(server)
        first = server.pid
        assert first is not None
        async with httpx.AsyncClient() as http:
            await refused_without_credentials(http, server)
            http.auth = httpx.BasicAuth(*server.auth.split(":"))
            settings = (await http.get(f"{server.api_url}/admin/settings")).json()["server"]
        assert settings["analytics_enabled"] is False
        assert settings["services"]["db_vacuum"]["retention_period"] == "P2D"
        assert "flow_runs" in settings["services"]["db_vacuum"]["enabled"]
        assert settings["services"]["event_persister"]["enabled"] is False
        assert stat.S_IMODE((tmp_path / "prefect.db").stat().st_mode) == 0o600
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
