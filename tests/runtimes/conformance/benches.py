"""A factory per runtime. Environments come from tools/env.sh, once per machine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from signal import Signals

import httpx

from modelium.analysis import EngineCatalog, analyze
from modelium.analysis.memory.footprint import CPU_POOL
from modelium.analysis.memory.vllm_pool import pool_bytes
from modelium.clock import SystemClock
from modelium.config import LlamaCpp as LlamaCppSection
from modelium.config import RayServe as RayServeSection
from modelium.config import Triton as TritonSection
from modelium.config import Vllm as VllmSection
from modelium.devices.cpu import CpuInventory
from modelium.errors import FailureKind
from modelium.models import GIB, LoadSettings, ModelFormat
from modelium.ports import Loaded, LoadRequest, Running
from runtimes.llama_cpp.driver import llama_cpp_driver
from runtimes.process import proc
from runtimes.process.sandbox import Sandbox
from runtimes.ray.driver import RayServeDriver
from runtimes.triton.driver import TritonDriver
from runtimes.vllm.driver import vllm_driver
from tests import engines, samples
from tests.fakes import tiny_llama
from tests.runtimes.conformance.bench import Bench
from tests.runtimes.requests import profile, request

LONG = 32768
"""Context of the vLLM bench in tokens: far more than the pool's rounding could hide."""


def inventory() -> CpuInventory:
    return CpuInventory(node="n", budget_bytes=12 * GIB)


def confined(state: Path) -> Sandbox:
    return Sandbox(mode="auto", hidden=(state,))


async def complete(loaded: Loaded) -> None:
    """One completion of an OpenAI-compatible engine."""
    upstream = loaded.upstream
    async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
        answer = await client.post(
            f"{upstream.base_url}/v1/completions",
            json={"model": upstream.served_name, "prompt": "hello", "max_tokens": 4},
            headers={"Authorization": f"Bearer {upstream.api_key}"},
        )
        refused = await client.post(f"{upstream.base_url}/v1/completions", json={})
        for path in ("/metrics", "/tokenize", "/slots", "/version", "/server_info", "/docs"):
            open_to_others = await client.get(f"{upstream.base_url}{path}")
            assert open_to_others.status_code in (401, 404), path
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] >= 1
    assert refused.status_code == 401, "an engine must refuse requests without its key"


def send_to_all(running: Running, number: Signals) -> None:
    assert running.pids
    for pid in running.pids:
        os.kill(pid, number)


def vllm(state: Path) -> Bench:
    config = VllmSection.model_validate(engines.vllm())

    def load(name: str) -> LoadRequest:
        path = tiny_llama.write(state / "models" / name)
        config = json.loads((path / "config.json").read_text())
        config["max_position_embeddings"] = LONG
        (path / "config.json").write_text(json.dumps(config))
        # Exactly what the planner gives it: vLLM refuses a pool that is a byte too small.
        pool, least = pool_bytes(
            analyze(path, engines=EngineCatalog()), CPU_POOL, max_model_len=LONG, max_num_seqs=1
        )
        assert pool == least
        settings = LoadSettings(max_model_len=LONG, max_num_seqs=4, kv_cache_bytes=pool)
        return request(path, settings=settings, deadline_s=600)

    def broken() -> LoadRequest:
        made = load("broken")
        (Path(made.path) / "config.json").write_text('{"model_type": "nonsense"}')
        return made

    return Bench(
        name="vllm",
        driver=lambda: vllm_driver(
            config=config,
            state_directory=state,
            clock=SystemClock(),
            devices=inventory(),
            sandbox=confined(state),
        ),
        request=load,
        broken=broken,
        broken_kinds=frozenset({FailureKind.UNSUPPORTED}),
        ask=complete,
        send=send_to_all,
        state=state,
    )


def llama_cpp(state: Path) -> Bench:
    config = LlamaCppSection.model_validate(engines.llama_cpp())

    def load(name: str, weights: bool = True) -> LoadRequest:
        path = state / "models" / name
        file = path / "model.gguf"
        if not file.exists():
            engines.gemma_gguf(path)
        if not weights:
            whole = file.read_bytes()
            file.unlink()  # it is a link to the sample
            file.write_bytes(whole[:1_000_000])
        return request(
            path,
            profile=profile(ModelFormat.GGUF, files={"model": file.name}, weight_bytes=253_000_000),
            settings=LoadSettings(max_model_len=512),
        )

    return Bench(
        name="llama_cpp",
        driver=lambda: llama_cpp_driver(
            config=config,
            state_directory=state,
            clock=SystemClock(),
            devices=inventory(),
            sandbox=confined(state),
        ),
        request=load,
        broken=lambda: load("broken", weights=False),
        broken_kinds=frozenset({FailureKind.BAD_FILES}),
        ask=complete,
        send=send_to_all,
        state=state,
        counts_requests=False,
    )


def triton(state: Path) -> Bench:
    config = TritonSection.model_validate(engines.triton(state / "work"))

    def load(name: str) -> LoadRequest:
        path = state / "models" / name
        path.mkdir(parents=True, exist_ok=True)
        shutil.copy(magika_onnx(), path / "model.onnx")
        return request(path, profile=profile(ModelFormat.ONNX, files={"model": "model.onnx"}))

    def broken() -> LoadRequest:
        made = load("broken")
        file = Path(made.path) / "model.onnx"
        file.write_bytes(file.read_bytes()[:100_000])
        return made

    def send(running: Running, number: Signals) -> None:
        for pid in proc.snapshot():
            if str(state).encode() in proc.command_line(pid):
                os.kill(pid, number)

    return Bench(
        name="triton",
        driver=lambda: TritonDriver(
            config=config,
            state_directory=state,
            clock=SystemClock(),
            devices=inventory(),
            sandbox=confined(state),
        ),
        request=load,
        broken=broken,
        broken_kinds=frozenset({FailureKind.BAD_FILES}),
        ask=detect_type,
        send=send,
        state=state,
    )


def ray_serve(state: Path) -> Bench:
    config = RayServeSection(enabled=True, endpoint=f"http://localhost:{engines.free_port()}")

    def load(name: str) -> LoadRequest:
        # Beside the state directory, which a cluster cannot read: its command names no models.
        path = state.with_name(f"{state.name}-models") / name
        path.mkdir(parents=True, exist_ok=True)
        return request(path, profile=samples.magika_onnx(path), reserve=GIB // 2)

    def broken() -> LoadRequest:
        made = load("broken")
        file = Path(made.path) / "model.onnx"
        file.write_bytes(file.read_bytes()[:100_000])
        return made

    return Bench(
        name="ray_serve",
        driver=lambda: RayServeDriver(
            config=config, state_directory=state, clock=SystemClock(), sandbox=confined(state)
        ),
        request=load,
        broken=broken,
        broken_kinds=frozenset({FailureKind.BAD_FILES}),
        ask=detect_type,
        send=send_to_all,
        state=state,
    )


def magika_onnx() -> Path:
    """A real ONNX model out of a wheel: tells file types (3 MB)."""
    import magika

    return next(Path(magika.__file__).parent.glob("models/standard_*/model.onnx"))


async def detect_type(loaded: Loaded) -> None:
    """One inference of magika over KServe v2."""
    upstream = loaded.upstream
    tensor = {"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": [32] * 2048}
    transport = httpx.AsyncHTTPTransport(uds=upstream.socket or None)
    async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=60) as client:
        answer = await client.post(
            f"{upstream.base_url}/v2/models/{upstream.served_name}/infer",
            json={"inputs": [tensor]},
            headers={"Authorization": f"Bearer {upstream.api_key}"} if upstream.api_key else {},
        )
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert output["shape"] == [1, 214]
    assert abs(sum(output["data"]) - 1) < 1e-3, "probabilities"


FACTORIES: Mapping[str, Callable[[Path], Bench]] = {
    "triton": triton,
    "llama_cpp": llama_cpp,
    "ray_serve": ray_serve,
    "vllm": vllm,
}
"""Name → bench; one more line runs another driver through every case."""
