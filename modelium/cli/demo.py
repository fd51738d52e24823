"""The product's one job, before your eyes: drop, analyze, decide, load, answer, idle out.

``python -m modelium.cli.demo [--ci]`` works in a folder of its own and leaves nothing behind.
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
"""Short, so that the model idles out in front of the user."""

PREFECT_S = 120.0
"""The first start of a Prefect server makes its database."""

READY_S = 180.0
EVICTED_S = 120.0

Scenario = Callable[[httpx.AsyncClient, Path], Awaitable[None]]

console = Console()


def main() -> None:
    """Run the demo; exit code 1 on any failure."""
    perform(settings, _scenario, wait="--ci" not in sys.argv[1:])


def perform(settings: Callable[[Path], Config], scenario: Scenario, *, wait: bool) -> None:
    """Play ``scenario`` to a Modelium in a folder of its own, then end all that it started.

    Args:
        settings: the configuration for that folder.
        scenario: is given the gateway's client and the drop zone.
        wait: for Ctrl-C after it, so that a person can look around.

    Raises:
        SystemExit: 1, something failed.
    """
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger().handlers[0].setLevel(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="modelium-demo-"))
    # Runs log to Prefect's own UI; here they would drown what the demo shows.
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
    """A configuration with short times and free ports."""
    return Config.model_validate(
        base(folder) | {"ray_serve": {"enabled": True, "endpoint": "http://127.0.0.1:0"}}
    )


def base(folder: Path, *, idle_s: float = IDLE_S) -> dict[str, Any]:
    """What every demo's configuration says, without a runtime."""
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
                with console.status("waiting for the Prefect server, to record every stage …"):
                    async with asyncio.timeout(PREFECT_S):
                        await modelium.prefect.ready()
            _urls(modelium)
            http = await stack.enter_async_context(
                httpx.AsyncClient(base_url=modelium.gateway_url, timeout=READY_S, trust_env=False)
            )
            await scenario(http, config.orchestration.incoming_directory)
            if wait:
                console.print("\nLook around at the addresses above; [bold]Ctrl-C[/bold] ends it.")
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
    question = {"inputs": [_bytes_of("print('hello')\n" * 40, meta["inputs"][0])]}
    answer = await http.post(f"/v2/models/{MODEL}/infer", json=question)
    scores = answer.raise_for_status().json()["outputs"][0]["data"]
    best = max(range(len(scores)), key=lambda index: scores[index])
    console.print(
        f"[green]it answers:[/green] class {best} of {len(scores)}, score {scores[best]:.3f}"
    )
    console.print(tables.models((await http.get("/api/v1/models")).json()))
    explained = (await http.get(f"/api/v1/models/{MODEL}/explain")).raise_for_status().json()
    for line in tables.decision(explained["decisions"][0]):
        console.print(line)
    with console.status(f"no more requests: it is unloaded after {IDLE_S:.0f} idle seconds …"):
        await until(http, MODEL, "unloaded", EVICTED_S)
    console.print(tables.models((await http.get("/api/v1/models")).json()))


async def until(http: httpx.AsyncClient, model: str, state: str, within_s: float) -> dict[str, Any]:
    """Wait until ``model`` is in ``state``; returns its row.

    Raises:
        InputError: it failed.
        DeadlineExceeded: not within ``within_s``.
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
        raise DeadlineExceeded(f"{model} is not {state} after {within_s:.0f} s: {last}") from exc


def _sample() -> Path:
    """The ONNX model in the magika wheel."""
    spec = importlib.util.find_spec("magika")
    if spec is None or spec.origin is None:
        raise InputError("the demo's model comes in the wheel `magika`; run `make demo`")
    return next((Path(spec.origin).parent / "models").glob("*/model.onnx"))


def _bytes_of(text: str, spec: dict[str, Any]) -> dict[str, Any]:
    """``text`` as the model wants it: its first bytes, padded."""
    length = int(spec["shape"][-1])
    padding = 256  # Magika's token for "nothing here"
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
