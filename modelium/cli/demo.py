"""A demo of the whole life of a model: drop, analyze, decide, load, request, idle unload.

``python -m modelium.cli.demo [--ci]`` works in a temporary folder and removes it at the end. With
``--ci`` it ends by itself.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from rich.console import Console

from modelium.cli import tables
from modelium.config import Config
from modelium.errors import DeadlineExceeded, InputError, ModeliumError

if TYPE_CHECKING:
    from modelium.app import Running

MODEL = "magika"
IDLE_S = 12.0
"""Short, so that users see the model being unloaded for idling."""

PREFECT_S = 120.0
"""The first start of a Prefect server creates its database."""

READY_S = 180.0
EVICTED_S = 120.0

Scenario = Callable[[httpx.AsyncClient, Path], Awaitable[None]]

console = Console()


def main() -> None:
    """Run the demo; exit code 1 on any failure."""
    perform(settings, _scenario, wait="--ci" not in sys.argv[1:])


def perform(settings: Callable[[Path], Config], scenario: Scenario, *, wait: bool) -> None:
    """Run ``scenario`` against a Modelium in a temporary folder, then end all that it started.

    Args:
        settings: returns the configuration for that folder.
        scenario: receives a client of the gateway and the drop zone.
        wait: whether to wait for Ctrl-C afterwards, so that the user can look around.

    Raises:
        SystemExit: with 1 if anything failed.
    """
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger().handlers[0].setLevel(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="modelium-demo-"))
    # Run logs are in the Prefect UI; here they would hide the demo's own output.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    try:
        asyncio.run(_show(settings(folder), scenario, wait=wait))
    except KeyboardInterrupt:
        console.print("\nstopped")
    except (ModeliumError, httpx.HTTPError) as exc:
        console.print(f"[red]the demo failed:[/red] {exc}")
        raise SystemExit(1) from exc
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settings(folder: Path) -> Config:
    """Return a configuration with short times and free ports."""
    return Config.model_validate(
        base(folder) | {"ray_serve": {"enabled": True, "endpoint": "http://127.0.0.1:0"}}
    )


def base(folder: Path, *, idle_s: float = IDLE_S) -> dict[str, Any]:
    """Return what the configurations of all demos have in common: no runtime is enabled."""
    return {
        "orchestration": {
            "model_repository": str(folder / "repository"),
            "incoming_directory": str(folder / "incoming"),
            "policies": {"auto_unload_after_seconds": idle_s, "min_residency_seconds": 5.0},
            "metrics": {"prometheus_port": 0, "collection_interval_seconds": 2.0},
        },
        "ingest": {"quiet_period_seconds": 1.0},
        "gateway": {"port": 0},
        "prefect": {"port": 0},
    }


async def _show(config: Config, scenario: Scenario, *, wait: bool) -> None:
    from modelium.app import end, running

    console.rule("Modelium")
    try:
        async with AsyncExitStack() as stack:
            with console.status("starting Prefect, the runtimes and the gateway …"):
                modelium = await stack.enter_async_context(running(config))
            if modelium.prefect:
                with console.status("waiting for the Prefect server …"):
                    async with asyncio.timeout(PREFECT_S):
                        await modelium.prefect.ready()
            _urls(modelium)
            http = await stack.enter_async_context(
                httpx.AsyncClient(base_url=modelium.gateway_url, timeout=READY_S, trust_env=False)
            )
            await scenario(http, config.orchestration.incoming_directory)
            if wait:
                console.print("\nThe addresses above work until you press [bold]Ctrl-C[/bold].")
                await asyncio.Event().wait()
            console.print("stopping …")
    finally:
        await end(config)
    console.print("[green]done[/green]")


async def _scenario(http: httpx.AsyncClient, incoming: Path) -> None:
    source = _sample()
    console.print(f"dropping [bold]{MODEL}[/bold] ({source.stat().st_size / 1e6:.1f} MB ONNX)")
    (incoming / MODEL).mkdir()
    shutil.copy(source, incoming / MODEL / "model.onnx")
    with console.status("ingest → analyze → decide → load …"):
        await until(http, MODEL, "ready", READY_S)
    meta = (await http.get(f"/v2/models/{MODEL}")).raise_for_status().json()
    request = {"inputs": [_bytes_of("print('hello')\n" * 40, meta["inputs"][0])]}
    answer = await http.post(f"/v2/models/{MODEL}/infer", json=request)
    scores = answer.raise_for_status().json()["outputs"][0]["data"]
    best = max(range(len(scores)), key=lambda index: scores[index])
    console.print(
        f"[green]response:[/green] class {best} of {len(scores)}, score {scores[best]:.3f}"
    )
    console.print(tables.models((await http.get("/api/v1/models")).json()))
    explained = (await http.get(f"/api/v1/models/{MODEL}/explain")).raise_for_status().json()
    for line in tables.decision(explained["decisions"][0]):
        console.print(line)
    with console.status(f"idle for {IDLE_S:.0f} s, it is unloaded by the next sweep …"):
        await until(http, MODEL, "unloaded", EVICTED_S)
    console.print(tables.models((await http.get("/api/v1/models")).json()))


async def until(http: httpx.AsyncClient, model: str, state: str, within_s: float) -> dict[str, Any]:
    """Wait until ``model`` is in ``state`` and return its row.

    Raises:
        InputError: the model failed.
        DeadlineExceeded: it did not reach ``state`` within ``within_s`` seconds.
    """
    last: dict[str, Any] = {}
    try:
        async with asyncio.timeout(within_s):
            while True:
                rows = (await http.get("/api/v1/models")).raise_for_status().json()
                last = next((row for row in rows if row["name"] == model), {})
                if last.get("state") == state:
                    return last
                if last.get("state") == "failed":
                    raise InputError(f"{model} failed: {last['reason']}")
                await asyncio.sleep(0.25)
    except TimeoutError as exc:
        raise DeadlineExceeded(f"{model} was not {state} within {within_s:.0f} s: {last}") from exc


def _sample() -> Path:
    """Return the path of the ONNX model in the magika wheel."""
    spec = importlib.util.find_spec("magika")
    if spec is None or spec.origin is None:
        raise InputError("the package magika is not installed; run the demo with `make demo`")
    return next((Path(spec.origin).parent / "models").glob("*/model.onnx"))


def _bytes_of(text: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return ``text`` as the model's input tensor: its first bytes, padded."""
    length = int(spec["shape"][-1])
    padding = 256  # Magika's padding token
    data = (list(text.encode()) + [padding] * length)[:length]
    return {
        "name": spec["name"],
        "datatype": spec["datatype"],
        "shape": [1, length],
        "data": data,
    }


def _urls(modelium: Running) -> None:
    for name, url in modelium.endpoints().items():
        console.print(f"  {name:<12} [link={url}]{url}[/link]", highlight=False)


if __name__ == "__main__":
    main()
