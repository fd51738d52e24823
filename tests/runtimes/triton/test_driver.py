"""The Triton driver without a server."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from grpc import aio
from tritonclient.grpc import service_pb2
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from modelium.clock import SystemClock
from modelium.config import Triton as TritonSection
from modelium.errors import ConfigError, LoadFailed, Unavailable
from modelium.gateway.proxy.upstream import UpstreamClient
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


def own(state: Path, **changes: object) -> TritonDriver:
    section = engines.triton(state / "work") | changes
    return TritonDriver(
        config=TritonSection.model_validate(section),
        state_directory=state,
        clock=SystemClock(),
        devices=Inventory(),
    )


def server_pid(state: Path) -> int:
    record = json.loads((state / "triton-server/tritonserver.json").read_text())
    return int(record["pid"])


INLINE_BACKEND = {
    "parameters": {
        "config": json.dumps({"name": "evil", "backend": "python", "max_batch_size": 0}),
        "file:1/model.py": base64.b64encode(b"raise SystemExit").decode(),
    }
}


@pytest.mark.real
async def test_a_server_of_modeliums_own_is_reached_by_its_user_alone(tmp_path: Path) -> None:
    tiny_onnx(tmp_path / "m")
    load = request(tmp_path / "m", profile=onnx())
    async with own(tmp_path) as triton:
        try:
            upstream = (await triton.load(load, progress=no_progress)).upstream
            folder = Path(upstream.socket).parent
            assert folder.stat().st_mode & 0o777 == 0o700
            assert sorted(path.name for path in folder.iterdir()) == ["grpc:2", "http", "metrics"]
            pid = server_pid(tmp_path)
            assert not [
                one
                for one in psutil.Process(pid).net_connections("inet")
                if one.status == psutil.CONN_LISTEN
            ], "no door beside the sockets"
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
            async with UpstreamClient() as client:
                answer = client.send(
                    upstream,
                    method="POST",
                    target="/v2/models/m/infer",
                    headers=[(b"content-type", b"application/json")],
                    body=json.dumps({"inputs": [tensor]}).encode(),
                )
                async with answer:
                    assert answer.status == 200
            async with own(tmp_path, endpoint=f"http://127.0.0.1:{free_port(3)}"):
                assert server_pid(tmp_path) == pid, "the same options: the server is adopted"
        finally:
            await triton.end(grace_s=10)


@pytest.mark.real
async def test_a_server_with_addresses_of_its_own_wants_a_token(tmp_path: Path) -> None:
    """As a container's, which listens on TCP."""
    tiny_onnx(tmp_path / "m")
    load = request(tmp_path / "m", profile=onnx())
    port = free_port(3)
    command = [*engines.triton(tmp_path / "work")["command"], "--http-address=127.0.0.1"]
    at_port = {"endpoint": f"http://localhost:{port}", "command": command}
    async with own(tmp_path, **at_port) as triton:
        try:
            upstream = (await triton.load(load, progress=no_progress)).upstream
            assert (upstream.host, upstream.port, upstream.socket) == ("127.0.0.1", port, "")
            token = tmp_path / "triton-server/token"
            assert token.stat().st_mode & 0o777 == 0o600
            assert upstream.api_key == token.read_text()
            metadata = "/v2/models/m"
            authorized = {"Authorization": f"Bearer {upstream.api_key}"}
            async with httpx.AsyncClient(base_url=upstream.base_url, trust_env=False) as foreign:
                assert (await foreign.get(metadata, headers=authorized)).status_code == 200
                refused = [
                    await foreign.post("/v2/repository/models/evil/load", json=INLINE_BACKEND),
                    await foreign.post("/v2/repository/models/m/unload"),
                    await foreign.post("/v2/models/m/infer", json={"inputs": []}),
                    await foreign.get(metadata),
                    await foreign.get("/v2/models/m/config"),
                    await foreign.post("/v2/logging", json={"log_verbose_level": 1}),
                    await foreign.post("/v2/trace/setting", json={"trace_rate": "1"}),
                    await foreign.post(
                        "/v2/systemsharedmemory/region/r/register",
                        json={"key": "/r", "offset": 0, "byte_size": 1},
                    ),
                    await foreign.post(
                        "/v2/repository/models/evil/load",
                        json=INLINE_BACKEND,
                        headers={"Authorization": "Bearer guess"},
                    ),
                ]
            assert {answer.status_code for answer in refused} == {403}
            async with InferenceServerClient(f"127.0.0.1:{port + 1}") as over_grpc:
                for call in (
                    over_grpc.load_model("evil"),
                    over_grpc.unload_model("m"),
                    over_grpc.get_model_repository_index(),
                    over_grpc.infer("m", []),
                    over_grpc.update_log_settings({"log_verbose_level": 1}),
                    over_grpc.update_trace_settings(settings={"trace_rate": "1"}),
                    over_grpc.register_system_shared_memory("r", "/r", 1),
                ):
                    with pytest.raises(InferenceServerException, match="restricted"):
                        await call
            other = free_port(3)
            first = server_pid(tmp_path)
            async with own(
                tmp_path, **at_port | {"endpoint": f"http://localhost:{other}"}
            ) as moved:
                assert (await moved.status()).healthy
                assert server_pid(tmp_path) != first, "other options: the server is started again"
                assert await moved.discover({}) == []
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
    assert (environment["HF_HUB_OFFLINE"], environment["TRANSFORMERS_OFFLINE"]) == ("1", "1")
    assert [own.number_of(first), own.number_of(last)] == [0, 1]
    with pytest.raises(LoadFailed, match="does not see GPU 7"):
        own.number_of(gpu("GPU-new", 7))
    assert server().number_of(last) == 5, "the user's server is to see all GPUs as NVML does"
    await own.close()


async def test_a_server_that_lives_but_stays_silent_is_replaced_in_the_end(tmp_path: Path) -> None:
    clock = FakeClock()
    server = TritonServer(
        config=TritonSection(
            enabled=True,
            command=(sys.executable, "-c", "import time; time.sleep(600)"),
            endpoint=f"http://127.0.0.1:{free_port()}",
        ),
        repository=tmp_path,
        directory=tmp_path / "server",
        clock=clock,
        devices=Inventory(),
    )

    async def look(after_s: float) -> int:
        """Return the process of the server afterwards."""
        clock.now += after_s
        with pytest.raises(Unavailable):
            await server.ensure_running()
        (record,) = (tmp_path / "server").glob("*.json")
        return int(json.loads(record.read_text())["pid"])

    try:
        first = await look(0)  # it does not become live within its time
        assert [await look(10) for _ in range(3)] == [first] * 3
        assert await look(10) != first
    finally:
        await server.stop(grace_s=0)
        await server.close()
