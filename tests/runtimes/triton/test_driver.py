"""The Triton driver without a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import grpc
import httpx
import pytest
from grpc import aio
from tritonclient.grpc import service_pb2

from modelium.clock import SystemClock
from modelium.config import Triton as TritonSection
from modelium.errors import ConfigError, LoadFailed, Unavailable
from modelium.models import Device
from runtimes.triton.driver import TritonDriver
from runtimes.triton.server import TritonServer
from tests import engines
from tests.engines import free_port
from tests.runtimes.clock import FakeClock
from tests.runtimes.requests import CPU, Inventory, no_progress, request
from tests.runtimes.triton.drops import drop, onnx
from tests.samples import tiny_onnx


def driver(state: Path, **section: object) -> TritonDriver:
    endpoint = {"endpoint": f"http://127.0.0.1:{free_port(3)}"}
    return TritonDriver(
        config=TritonSection.model_validate({"enabled": True} | endpoint | section),
        state_directory=state,
        clock=SystemClock(),
        devices=Inventory(),
    )


async def test_status_reports_a_missing_server_and_does_not_raise(
    tmp_path: Path,
) -> None:
    async with driver(tmp_path) as triton:
        status = await triton.status()
        assert not status.healthy
        assert "triton.endpoint" in status.detail
        with pytest.raises(Unavailable):
            await triton.load(
                request(drop(tmp_path / "m", model_onnx="x"), profile=onnx()),
                progress=no_progress,
            )
        with pytest.raises(Unavailable):
            await triton.discover({})
        assert await triton.stats() == {}


@pytest.mark.parametrize(
    "command", [("/nonexistent/tritonserver",), (sys.executable, "-c", "exit('no good option')")]
)
async def test_a_server_that_does_not_come_up_says_why(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    async with driver(tmp_path, command=command) as triton:
        status = await triton.status()
        assert not status.healthy
        assert await triton.discover({}) == []
        await triton.unload("m", handle={}, grace_s=1)
        await triton.end(grace_s=10)


async def test_triton_does_not_sleep(tmp_path: Path) -> None:
    async with driver(tmp_path) as triton:
        with pytest.raises(Unavailable, match="unload instead"):
            await triton.sleep("m", handle={})


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:99999", "https://x:1"])
def test_an_invalid_endpoint_is_a_configuration_error(tmp_path: Path, endpoint: str) -> None:
    # The configuration's own check is passed by, as by who builds the section in code.
    section = TritonSection(enabled=True).model_copy(update={"endpoint": endpoint})
    with pytest.raises(ConfigError):
        TritonDriver(
            config=section, state_directory=tmp_path, clock=SystemClock(), devices=Inventory()
        )


@pytest.mark.real
async def test_a_server_of_modeliums_own_listens_at_localhost(tmp_path: Path) -> None:
    port = free_port(3)
    section = engines.triton(tmp_path / "work") | {"endpoint": f"http://localhost:{port}"}

    def made(**changes: object) -> TritonDriver:
        return TritonDriver(
            config=TritonSection.model_validate(section | changes),
            state_directory=tmp_path,
            clock=SystemClock(),
            devices=Inventory(),
        )

    def pid() -> int:
        return int(json.loads((tmp_path / "triton-server/tritonserver.json").read_text())["pid"])

    tiny_onnx(tmp_path / "m")
    load = request(tmp_path / "m", profile=onnx())
    async with made() as triton:
        try:
            loaded = await triton.load(load, progress=no_progress)
            live = f"{loaded.upstream.base_url}/v2/models/m/ready"
            async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
                assert (await client.get(live)).status_code == 200
            first = pid()
            async with made():
                assert pid() == first, "the same options: the server is adopted"
            other = free_port(3)
            async with made(endpoint=f"http://localhost:{other}") as moved:
                assert (await moved.status()).healthy
                assert pid() != first, "other options: the server is started again"
                assert await moved.discover({}) == []
                loaded = await moved.load(load, progress=no_progress)
                assert loaded.upstream.port == other
        finally:
            await triton.end(grace_s=10)


async def test_a_server_that_answers_grpc_alone_is_not_healthy(tmp_path: Path) -> None:
    """Triton's readiness over gRPC says nothing about the address that requests go to."""
    server = aio.server()
    port = server.add_insecure_port("127.0.0.1:0")

    async def live(_request: bytes, _context: object) -> bytes:
        return service_pb2.ServerLiveResponse(live=True).SerializeToString()

    handlers = {"ServerLive": grpc.unary_unary_rpc_method_handler(live)}
    name = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    await server.start()
    closed = f"http://127.0.0.1:{free_port()}"
    try:
        async with driver(tmp_path, endpoint=closed, grpc_endpoint=f"127.0.0.1:{port}") as triton:
            status = await triton.status()
    finally:
        await server.stop(None)
    assert not status.healthy
    assert closed in status.detail
    assert "correct triton.endpoint" in status.detail


class Gpus:
    """A host with GPUs whose order in the list is not NVML's."""

    def __init__(self, *gpus: Device) -> None:
        self.gpus = gpus

    def snapshot(self) -> tuple[Device, ...]:
        return (CPU, *self.gpus)


def gpu(uuid: str, index: int) -> Device:
    return CPU.model_copy(update={"uuid": uuid, "index": index, "kind": "gpu"})


NOTE_ENVIRONMENT = "import json, os; json.dump(dict(os.environ), open('environment.json', 'w'))"


async def test_a_server_of_modeliums_own_sees_the_managed_gpus_and_numbers_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")  # of Modelium: its numbers shift, too
    last, first = gpu("GPU-b", 5), gpu("GPU-a", 2)

    def server(**section: object) -> TritonServer:
        return TritonServer(
            config=TritonSection.model_validate({"enabled": True} | section),
            repository=tmp_path,
            directory=tmp_path / "server",
            clock=SystemClock(),
            devices=Gpus(last, first),
        )

    own = server(command=(sys.executable, "-c", NOTE_ENVIRONMENT))
    assert own.number_of(last) == 5, "not started yet"
    with pytest.raises(LoadFailed):
        await own.ensure_running()
    environment = json.loads((tmp_path / "server/environment.json").read_text())
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert [own.number_of(first), own.number_of(last)] == [0, 1]
    with pytest.raises(LoadFailed, match="does not see GPU 7"):
        own.number_of(gpu("GPU-new", 7))
    assert server().number_of(last) == 5, "the user's server is to see all GPUs as NVML does"
    await own.close()


async def test_a_server_that_lives_but_stays_silent_is_replaced_in_the_end(tmp_path: Path) -> None:
    clock = FakeClock()
    count = f"open({str(tmp_path / 'starts')!r}, 'a').write('x'); import time; time.sleep(600)"
    server = TritonServer(
        config=TritonSection(
            enabled=True,
            command=(sys.executable, "-c", count),
            endpoint=f"http://127.0.0.1:{free_port()}",
        ),
        repository=tmp_path,
        directory=tmp_path / "server",
        clock=clock,
        devices=Inventory(),
    )

    async def look(after_s: float) -> int:
        clock.now += after_s
        with pytest.raises(Unavailable):
            await server.ensure_running()
        return started()

    def started() -> int:
        return len((tmp_path / "starts").read_text())

    try:
        assert await look(0) == 1, "it does not become live within its time"
        assert [await look(10) for _ in range(3)] == [1, 1, 1]
        assert await look(10) == 2
    finally:
        await server.stop(grace_s=0)
        await server.close()
