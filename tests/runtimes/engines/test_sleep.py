"""Sleep and wake, driven over the fake engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.errors import Unavailable
from tests.runtimes.fake_vllm import Make, model
from tests.runtimes.requests import no_progress, request


async def test_sleep_and_wake_are_states_that_survive_a_restart(make: Make, tmp_path: Path) -> None:
    driver = make(default_settings={"enable_sleep_mode": True})
    loaded = await driver.load(request(model(tmp_path)), progress=no_progress)
    await driver.sleep("m", handle=loaded.handle)
    await driver.sleep("m", handle=loaded.handle)
    other = make(default_settings={"enable_sleep_mode": True})
    (running,) = await other.discover({"m": loaded.handle})
    assert running.state == "sleeping"
    await other.wake("m", handle=loaded.handle)
    (running,) = await driver.discover({})
    assert running.state == "ready"
    with pytest.raises(Unavailable, match="load it first"):
        await driver.sleep("another", handle={})
