"""Engines that hang, die, fail or talk without end."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.chaos.ground import Ground

LOGS = 64 * 2**20
"""Bytes that the logs of a service may have while one engine floods its own."""


@contextmanager
def dropped(ground: Ground, *states: str, **behaviour: Any) -> Iterator[str]:
    """Drop a model that misbehaves and have it loaded; remove it at the end.

    What it answers until then is excused. ``states``: those that are waited for.
    """
    name = ground.drop(healthy=False, **behaviour)
    with ground.client.excused(name):
        try:
            ground.until(lambda: ground.state(name))
            ground.order("POST", f"/models/{name}/load", wait=0.0)
            ground.until(lambda: ground.state(name) in states)
            yield name
        finally:
            asked = ground.order("DELETE", f"/models/{name}")
            assert asked in (200, 202), f"the removal of {name} was answered with {asked}"


def hangs(ground: Ground, rng: random.Random) -> None:
    """Have an engine hang while it starts; the operator gives up on it."""
    with dropped(ground, "loading", hang=True) as name:
        time.sleep(rng.uniform(0.5, 3.0))
        ground.order("POST", f"/models/{name}/unload")


def dies(ground: Ground, rng: random.Random) -> None:
    """Have an engine die soon after each start."""
    dies_s = rng.uniform(0.0, 0.9)
    with dropped(ground, "ready", "failed", dies_s=dies_s) as name:
        ground.client.models.append(name)
        time.sleep(rng.uniform(1.0, 4.0))
        ground.client.models.remove(name)


def fails(ground: Ground, rng: random.Random) -> None:
    """Have an engine answer 500 to every request after its first ones."""
    with dropped(ground, "ready", fail_after=rng.choice((1, 4))) as name:
        for _ in range(10):
            ground.client.ask(name)


def floods(ground: Ground, rng: random.Random) -> None:
    """Have an engine write megabytes a second to its log."""
    with dropped(ground, "loading", "ready", flood_s=0.005):
        time.sleep(rng.uniform(3.0, 6.0))
        size = sum(_size(path) for path in ground.service.state.rglob("*.log*"))
        assert size < LOGS, f"the logs have {size} bytes"


def _size(path: Path) -> int:
    return path.stat().st_blocks * 512 if path.is_file() else 0
