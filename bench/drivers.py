"""Measures the time that a driver adds to cold start and unload of an engine.

Each runtime loads one small model alternately through its driver and by hand, with the same command
or call; a start ends with the first answer, an unload when the process (or the model in its server)
is gone. Needs the environments of `make environments`.

    python -m bench.drivers [--repeats 3] [--vllm-repeats 1] [--only triton]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tritonclient.grpc import aio

from modelium import config
from modelium.clock import SystemClock
from modelium.models import GIB, LoadSettings, ModelFormat
from modelium.ports import Loaded, LoadRequest, Runtime
from runtimes.engines.recipe import EngineRecipe
from runtimes.llama_cpp.driver import llama_cpp_driver
from runtimes.llama_cpp.recipe import LlamaCppRecipe
from runtimes.ray.application import build_application
from runtimes.ray.cluster import LocalCluster
from runtimes.ray.driver import RayServeDriver
from runtimes.triton.driver import TritonDriver
from runtimes.vllm.driver import vllm_driver
from runtimes.vllm.recipe import VllmRecipe
from tests import engines, samples
from tests.fakes import tiny_llama
from tests.runtimes.requests import Inventory, no_progress, profile, request

POLL_S = 0.1
"""More frequent requests would slow down a starting engine on two cores."""
DEADLINE_S = 400.0
TENSOR = {"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": [32] * 2048}

Act = Callable[[], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to start a model until it answers, and to stop it until it is gone."""

    start: Act
    stop: Act


Ways = dict[str, Way]


async def answered(url: str, body: dict[str, Any], key: str = "") -> None:
    """Repeat the request until it succeeds; raises `TimeoutError` after `DEADLINE_S`."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(trust_env=False, timeout=120, headers=headers) as client:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            try:
                if (await client.post(url, json=body)).status_code == httpx.codes.OK:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(POLL_S)
    raise TimeoutError(url)


def by_driver(driver: Runtime, asked: LoadRequest, body: dict[str, Any], path: str) -> Way:
    """Return the way of Modelium: its driver."""
    loaded: list[Loaded] = []

    async def start() -> None:
        loaded[:] = [await driver.load(asked, progress=no_progress)]
        upstream = loaded[0].upstream
        await answered(upstream.base_url + path, body, upstream.api_key or "")

    async def stop() -> None:
        await driver.unload(asked.model, handle=loaded[0].handle, grace_s=30)

    return Way(start=start, stop=stop)


def process_by_hand(
    recipe: EngineRecipe, asked: LoadRequest, body: dict[str, Any], log: Path
) -> Way:
    """Return the manual way: the driver's command line as a plain process."""
    running: list[asyncio.subprocess.Process] = []

    async def start() -> None:
        port = engines.free_port()
        made = recipe.command(recipe.complete(asked), host="127.0.0.1", port=port, key="key")
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), **made.environment}
        with log.open("ab") as output:
            running[:] = [
                await asyncio.create_subprocess_exec(
                    *made.argv, env=environment, stdout=output, stderr=output
                )
            ]
        await answered(f"http://127.0.0.1:{port}/v1/completions", body, "key")

    async def stop() -> None:
        running[0].terminate()
        await running[0].wait()

    return Way(start=start, stop=stop)


@asynccontextmanager
async def vllm(folder: Path) -> AsyncIterator[Ways]:
    """Yield both ways for an engine with one process per model."""
    section = config.Vllm.model_validate(engines.vllm())
    settings = LoadSettings(max_model_len=256, max_num_seqs=4, kv_cache_bytes=32 * 2**20)
    asked = request(tiny_llama.write(folder / "m"), settings=settings, deadline_s=DEADLINE_S)
    recipe = VllmRecipe(config=section, executable=section.executable)
    async with vllm_driver(
        config=section, state_directory=folder, clock=SystemClock(), devices=Inventory()
    ) as driver:
        yield engine_ways(driver, recipe, asked, folder)
        await driver.end(grace_s=5)


@asynccontextmanager
async def llama_cpp(folder: Path) -> AsyncIterator[Ways]:
    """Yield both ways for an engine with one process per model."""
    section = config.LlamaCpp.model_validate(engines.llama_cpp())
    gguf = profile(ModelFormat.GGUF, files={"model": "model.gguf"}, weight_bytes=253_000_000)
    asked = request(
        engines.gemma_gguf(folder / "m"), profile=gguf, settings=LoadSettings(max_model_len=512)
    )
    recipe = LlamaCppRecipe(config=section, executable=section.executable)
    async with llama_cpp_driver(
        config=section, state_directory=folder, clock=SystemClock(), devices=Inventory()
    ) as driver:
        yield engine_ways(driver, recipe, asked, folder)
        await driver.end(grace_s=5)


def engine_ways(driver: Runtime, recipe: EngineRecipe, asked: LoadRequest, folder: Path) -> Ways:
    """Return both ways for an engine with one process per model."""
    body = {"model": asked.model, "prompt": "hello", "max_tokens": 1}
    return {
        "driver": by_driver(driver, asked, body, "/v1/completions"),
        "hand": process_by_hand(recipe, asked, body, folder / "by-hand.log"),
    }


@asynccontextmanager
async def triton(folder: Path) -> AsyncIterator[Ways]:
    """Yield both ways; they share the server, whose start is not measured."""
    section = config.Triton.model_validate(engines.triton(folder / "work"))
    asked = request(folder / "m", profile=samples.magika_onnx(folder / "m"))
    http = section.endpoint
    path = "/v2/models/m/infer"
    async with TritonDriver(
        config=section, state_directory=folder, clock=SystemClock(), devices=Inventory()
    ) as driver:
        entry, kept = folder / "triton/m", folder / "entry"
        control = aio.InferenceServerClient(f"127.0.0.1:{int(http.rpartition(':')[2]) + 1}")

        async def start() -> None:
            shutil.copytree(kept, entry)
            await control.load_model("m")
            await answered(http + path, {"inputs": [TENSOR]})

        async def stop() -> None:
            await control.unload_model("m")
            while True:
                index = await control.get_model_repository_index()
                if all(model.state == "UNAVAILABLE" for model in index.models):
                    break
                await asyncio.sleep(POLL_S)
            shutil.rmtree(entry)

        await driver.load(asked, progress=no_progress)
        shutil.copytree(entry, kept)
        await driver.unload("m", handle={}, grace_s=5)
        yield {
            "driver": by_driver(driver, asked, {"inputs": [TENSOR]}, path),
            "hand": Way(start=start, stop=stop),
        }
        await control.close()
        await driver.end(grace_s=5)


BY_HAND_ON_RAY = """
import json, sys
import ray
from ray import cloudpickle, serve
from runtimes.ray import replica
from runtimes.ray.replica.replica import Replica
given = json.loads(sys.stdin.readline())
ray.init(address=given["address"], namespace="modelium", log_to_driver=False)
cloudpickle.register_pickle_by_value(replica)
model = serve.deployment(Replica).options(**given["options"]).bind(given["spec"])
for order in sys.stdin:
    if order == "run\\n":
        serve.run(model, name="m", route_prefix="/m")
    else:
        serve.delete("m")
    print("done", flush=True)
"""


@asynccontextmanager
async def ray_serve(folder: Path) -> AsyncIterator[Ways]:
    """Yield both ways; they share the cluster, whose start is not measured."""
    section = config.RayServe.model_validate(engines.ray_serve())
    asked = request(folder / "m", profile=samples.magika_onnx(folder / "m"), reserve=GIB // 2)
    path = "/v2/models/m/infer"
    async with RayServeDriver(
        config=section, state_directory=folder, clock=SystemClock()
    ) as driver:
        loaded = await driver.load(asked, progress=no_progress)
        await driver.unload("m", handle={}, grace_s=5)
        cluster = LocalCluster(directory=folder / "ray", clock=SystemClock())
        if not cluster.adopt() or cluster.record is None:
            raise RuntimeError("the driver's Ray cluster has ended")
        application = build_application(asked, python=None, cpus=2, node_ip=None)
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", BY_HAND_ON_RAY),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=cluster.environment(),
            cwd=engines.ROOT,
        )

        async def order(line: str) -> None:
            if child.stdin is None or child.stdout is None:
                raise RuntimeError("it has pipes")
            child.stdin.write(line.encode() + b"\n")
            while (told := await child.stdout.readline()) != b"done\n":
                if not told:
                    raise RuntimeError("the process that calls Ray Serve directly has died")

        given = {"address": cluster.record.address, "options": application.options}
        if child.stdin is not None:
            child.stdin.write(json.dumps(given | {"spec": application.spec}).encode() + b"\n")
        await order("delete")  # connected, but nothing is deployed

        async def start() -> None:
            await order("run")
            await answered(loaded.upstream.base_url + path, {"inputs": [TENSOR]})

        async def stop() -> None:
            await order("delete")

        yield {
            "driver": by_driver(driver, asked, {"inputs": [TENSOR]}, path),
            "hand": Way(start=start, stop=stop),
        }
        child.kill()
        await child.wait()
        await driver.end(grace_s=5)


RUNTIMES = {"triton": triton, "llama_cpp": llama_cpp, "ray_serve": ray_serve, "vllm": vllm}


async def measure(name: str, repeats: int) -> dict[tuple[str, str], list[float]]:
    """Return the seconds by (way, act); the ways alternate."""
    taken: dict[tuple[str, str], list[float]] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-drivers-")))
        ways = await stack.enter_async_context(RUNTIMES[name](folder))
        for turn in range(repeats):
            order = list(ways.items())
            for way, acts in order if turn % 2 else reversed(order):
                for act, do in (("cold start", acts.start), ("unload", acts.stop)):
                    began = time.perf_counter()
                    await do()
                    taken.setdefault((way, act), []).append(time.perf_counter() - began)
    return taken


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--vllm-repeats", type=int, default=1)
    parser.add_argument("--only", choices=RUNTIMES)
    options = parser.parse_args()
    print(f"{'':24}{'by hand':>10}{'driver':>10}{'ratio':>8}")
    for name in [options.only] if options.only else RUNTIMES:
        repeats = options.vllm_repeats if name == "vllm" else options.repeats
        taken = asyncio.run(measure(name, repeats))
        for act in ("cold start", "unload"):
            hand, driver = (statistics.median(taken[way, act]) for way in ("hand", "driver"))
            print(
                f"{name + ' ' + act:24}{hand:>8.2f} s{driver:>8.2f} s{driver / hand:>8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
