"""Engines that hang, die, fail or talk without end."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.chaos.ground import Ground, Unaimed

LOGS = 64 * 2**20
"""Bytes that the logs of a service may have while one engine floods its own."""


def hangs(ground: Ground, rng: random.Random) -> None:
    """Have an engine hang while it starts; the operator gives up on it."""
    name = ground.drop(healthy=False, hang=True)
    ground.until(lambda: ground.state(name) == "loading")
    time.sleep(rng.uniform(0.5, 3.0))
    ground.order("POST", f"/models/{name}/unload")
    _removed(ground, name)


def dies(ground: Ground, rng: random.Random) -> None:
    """Have an engine die soon after each start."""
    name = ground.drop(healthy=False, dies_s=rng.uniform(0.0, 0.9))
    with ground.client.excused(name):
        ground.until(lambda: ground.state(name) == "ready")
        ground.client.models.append(name)
        time.sleep(rng.uniform(1.0, 4.0))
        ground.client.models.remove(name)
        ground.client.ask(name)
        _removed(ground, name)
        time.sleep(0.5)


def fails(ground: Ground, rng: random.Random) -> None:
    """Have an engine answer 500 to every request, or to all after some."""
    name = ground.drop(healthy=False, fail_after=rng.choice((0, 3)))
    with ground.client.excused(name):
        ground.until(lambda: ground.state(name) == "ready")
        for _ in range(10):
            ground.client.ask(name)
        _removed(ground, name)


def floods(ground: Ground, rng: random.Random) -> None:
    """Have an engine write megabytes a second to its log."""
    name = ground.drop(healthy=False, flood_s=0.005)
    ground.until(lambda: ground.state(name) in ("loading", "ready"))
    time.sleep(rng.uniform(3.0, 6.0))
    size = sum(_size(path) for path in ground.service.state.rglob("*.log*"))
    assert size < LOGS, f"the logs have {size} bytes"
    _removed(ground, name)


def _size(path: Path) -> int:
    return path.stat().st_blocks * 512 if path.is_file() else 0


def _removed(ground: Ground, name: str) -> None:
    if ground.order("DELETE", f"/models/{name}", wait=0.0) not in (200, 202):
        raise Unaimed
