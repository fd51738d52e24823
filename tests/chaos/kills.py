"""Processes that are killed or stopped, at any moment or at one that is aimed at."""

from __future__ import annotations

import os
import random
import signal
import time

from tests.chaos.ground import Ground


def _kill_service(ground: Ground, rng: random.Random) -> None:
    with ground.client.excused():
        ground.service.kill()
        time.sleep(rng.uniform(0.0, 1.0))
        ground.service.start()


def kill(ground: Ground, rng: random.Random) -> None:
    """Kill the service at any moment after a drop."""
    ground.drop()
    time.sleep(rng.uniform(0.0, 2.0))
    _kill_service(ground, rng)


def kill_publishing(ground: Ground, rng: random.Random) -> None:
    """Kill the service while it takes a drop in, until just after it is registered."""
    staging = ground.folder / "service" / "repository" / ".staging"
    name = ground.drop()
    ground.until(lambda: any(staging.iterdir()))
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0.0, 0.03))
    else:
        repository = ground.folder / "service" / "repository"
        ground.until(lambda: (repository / name).exists() or ground.state(name))
        time.sleep(rng.uniform(0.0, 0.01))
    _kill_service(ground, rng)


def kill_loading(ground: Ground, rng: random.Random) -> None:
    """Kill the service while a model loads."""
    name = ground.drop(start_s=1.0)
    ground.until(lambda: ground.state(name) == "loading")
    time.sleep(rng.uniform(0.0, 1.2))
    _kill_service(ground, rng)


def kill_evicting(ground: Ground, rng: random.Random) -> None:
    """Kill the service while it unloads a model, which still answers a request."""
    name = ground.drop(answer_s=0.5)
    ground.until(lambda: ground.state(name) == "ready")
    ground.order("POST", f"/models/{name}/unload", wait=0.0)
    ground.until(lambda: ground.state(name) in ("draining", "unloading", "unloaded"))
    time.sleep(rng.uniform(0.0, 0.3))
    _kill_service(ground, rng)


def pause(ground: Ground, rng: random.Random) -> None:
    """Stop the service for 2 to 12 s, as a suspended or swapping machine does."""
    ground.drop()
    time.sleep(rng.uniform(0.0, 1.0))
    assert ground.service.process is not None
    _pause(ground.service.process.pid, rng)


def _pause(pid: int, rng: random.Random) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(rng.choice((2.0, 3.0, 4.0, 6.0, 12.0)))
    finally:
        os.kill(pid, signal.SIGCONT)


def _engine(ground: Ground) -> tuple[str, list[int]]:
    """Return a ready model that is asked, and its processes; wait for one."""
    found: list[tuple[str, list[int]]] = []

    def look() -> bool:
        for model in ground.client.models:
            if ground.state(model) == "ready" and (pids := ground.engines(model)):
                found.append((model, pids))
                return True
        return False

    ground.until(look)
    return found[0]


def pause_engine(ground: Ground, rng: random.Random) -> None:
    """Stop an engine for 2 to 12 s, as a long compilation does."""
    _model, pids = _engine(ground)
    try:
        _pause(pids[0], rng)
    except ProcessLookupError:  # evicted in between
        return


def kill_engine(ground: Ground, rng: random.Random) -> None:
    """Kill an engine."""
    model, pids = _engine(ground)
    with ground.client.excused(model):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(rng.uniform(1.0, 2.0))
