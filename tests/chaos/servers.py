"""Servers beside the service that are killed: Prefect's, Ray's, Triton."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import httpx
import psutil

from runtimes.process import proc
from tests import engines
from tests.chaos.ground import Ground, Unaimed
from tests.invariants import processes
from tests.samples import tiny_onnx

SERVED_S = 120.0
"""Within this a killed server serves again; Ray's start alone takes 10 s and more."""

Settings = Callable[[Ground], Mapping[str, Any]]


def prefect(ground: Ground) -> Mapping[str, Any]:
    """Return what a service with a Prefect server of its own adds to the settings."""
    return {"prefect": {"enabled": True, "port": 0}}


def ray(ground: Ground) -> Mapping[str, Any]:
    """The same, with a Ray cluster."""
    return {"ray_serve": engines.ray_serve()}


def triton(ground: Ground) -> Mapping[str, Any]:
    """The same, with Triton."""
    return {"triton": engines.triton(ground.folder / "triton")}


def kill_prefect(ground: Ground, rng: random.Random) -> None:
    """Kill Prefect's server while a drop is on its way."""
    ground.service.eventually(ground.service.recording)
    port = str(httpx.URL(ground.service.prefect_api).port)
    wanted = {b"flows.runner.server", port.encode()}
    ground.drop()
    time.sleep(rng.uniform(0.0, 1.0))
    _kill([pid for pid in _alive() if wanted <= set(proc.command_line(pid).split(b"\0"))])


def kill_ray(ground: Ground, rng: random.Random) -> None:
    """Kill Ray's control store, without which the whole cluster ends."""
    token = str(ground.service.state / "ray" / "token")

    def found() -> list[int]:
        return [
            pid
            for pid in _alive()
            if b"gcs_server" in proc.command_line(pid)
            and proc.has_variable(pid, "RAY_AUTH_TOKEN_PATH", token)
        ]

    _server(ground, rng, found)


def kill_triton(ground: Ground, rng: random.Random) -> None:
    """Kill Triton."""

    def found() -> list[int]:
        tokens = processes.recorded(ground.service.state)
        return [p.pid for p in processes.engines() if tokens.get(p.token, "").startswith("triton")]

    _server(ground, rng, found)


def _server(ground: Ground, rng: random.Random, found: Callable[[], list[int]]) -> None:
    name = f"onnx{ground.seed}"
    tiny_onnx(ground.folder / "aside" / name, weight=rng.uniform(0.5, 2.0))
    ground.put(name, ground.folder / "aside" / name)
    assert _infers(ground, name), f"{name} ({ground.state(name)}) does not answer"
    _kill(found())
    time.sleep(rng.uniform(0.0, 2.0))
    assert _infers(ground, name), f"{name} ({ground.state(name)}) answers no more"


def _infers(ground: Ground, name: str) -> bool:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    deadline = time.monotonic() + SERVED_S
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            url = f"{ground.client.url}/v2/models/{name}/infer"
            if httpx.post(url, json=body, timeout=90, trust_env=False).status_code == 200:
                return True
        time.sleep(0.5)
    return False


def _alive() -> list[int]:
    return [pid for pid, process in proc.snapshot().items() if process.alive]


def _kill(pids: list[int]) -> None:
    if not pids:
        raise Unaimed
    for pid in pids:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
