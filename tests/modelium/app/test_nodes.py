"""Two services on one PostgreSQL: the files of a model reach the node that has none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from modelium import analysis
from modelium.app import assembly, service
from modelium.app.service import Running
from modelium.config import Config
from modelium.stages.fetching import provide
from modelium.stages.verification import verify
from tests import postgresql
from tests.engines import free_port
from tests.fakes.runtime import MemoryRuntime
from tests.modelium.conftest import config as base
from tests.samples import tiny_onnx

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.xdist_group("postgresql")]

WITHIN_S = 60.0


def node(folder: Path, name: str, url: str, token: str | None) -> Config:
    """Return the configuration of a node that fetches, on a free port."""
    given = base(folder / name).model_dump(mode="json", exclude_unset=True)
    port = free_port()
    given["gateway"] |= {"port": port, "advertise": f"http://127.0.0.1:{port}"}
    given["orchestration"] |= {
        "enabled": False,
        "node": name,
        "join_token": token,
        "metrics": {"prometheus_enabled": False},
    }
    given |= {
        "prefect": {"enabled": False}, "store": {"url": url}, "repository": {"fetch": True},
    }  # fmt: skip
    return Config.model_validate(given)


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Running]:
    """Run a service in a task, and so in a context, of its own."""
    up: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()

    async def serve() -> None:
        async with service.running(config, environ={}) as found:
            up.set_result(found)
            await stop.wait()

    serving = asyncio.create_task(serve())
    await asyncio.wait({up, serving}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield up.result() if up.done() else serving.result()  # type: ignore[misc]
    finally:
        stop.set()
        await serving


@pytest.mark.filterwarnings("ignore")
async def test_a_node_fetches_what_it_lacks_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = MemoryRuntime()
    monkeypatch.setattr(assembly, "build_drivers", lambda *_args: {one.name: one})
    with postgresql.server() as server:
        url = server.database()
        async with running(node(tmp_path, "first", url, None)) as first:
            tiny_onnx(tmp_path / "source" / "tiny")
            async with httpx.AsyncClient(base_url=first.gateway_url, timeout=WITHIN_S) as client:
                wanted = {"path": str(tmp_path / "source" / "tiny")}
                answer = await client.post("/api/v1/ingest?wait=60", json=wanted)
                assert answer.json()["state"] == "done", answer.text
            token = await first.services.store.nodes.issue_token()
            async with running(node(tmp_path, "second", url, token)) as second:
                record = await second.services.store.model("tiny")
                here = await provide(second.services, record, lambda _phase, _share: None)
                assert here == tmp_path / "second" / "repository" / "tiny"
                assert analysis.digest(here) == record.digest
                await verify(second.services, record)
                copies = await first.services.store.nodes.copies()
                assert copies["tiny", 1] == {"first", "second"}
            async with httpx.AsyncClient(base_url=first.gateway_url) as client:
                for credentials in ({}, {"authorization": "Bearer mdn_" + "x" * 43}):
                    answer = await client.get("/peer/files/tiny@1", headers=credentials)
                    assert answer.status_code in (401, 403), answer.text
