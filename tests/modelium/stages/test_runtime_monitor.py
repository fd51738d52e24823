"""What the runtimes were last seen to be and to run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from modelium.errors import Unavailable
from modelium.models import RuntimeName
from modelium.policy import Policy, RuntimeRules
from modelium.ports import Running
from modelium.stages import runtime_monitor
from modelium.stages.runtime_monitor import RuntimeMonitor
from tests.fakes.runtime import MemoryRuntime, upstream

NAME = RuntimeName.RAY_SERVE


def observer(runtime: MemoryRuntime, *, enabled: bool = True) -> RuntimeMonitor:
    policy = Policy(runtimes={NAME: RuntimeRules(enabled=enabled)})
    return RuntimeMonitor(runtimes={NAME: runtime}, policy=policy)


async def test_nothing_is_known_before_the_first_observation() -> None:
    assert observer(MemoryRuntime()).statuses() == ()


async def test_a_healthy_runtime_is_seen_with_what_it_runs() -> None:
    runtime = MemoryRuntime()
    runtime.held["m"] = upstream("m")
    monitor = observer(runtime)
    observed = await monitor.observe({NAME: {"m": {"name": "m"}}})
    running = observed[NAME].running
    assert running is not None and [r.model for r in running] == ["m"]
    assert observed[NAME].stats["m"].resident_bytes == 50_000_000
    assert runtime.handles == {"m": {"name": "m"}}
    assert [s.healthy for s in monitor.statuses()] == [True]


async def test_what_an_unhealthy_runtime_runs_is_unknown() -> None:
    runtime = MemoryRuntime()
    runtime.healthy = False
    observed = await observer(runtime).observe({})
    assert observed[NAME].running is None
    assert not observed[NAME].status.healthy


async def test_a_runtime_that_fails_while_it_is_asked_counts_as_down() -> None:
    runtime = MemoryRuntime()
    runtime.discover_failure = Unavailable("connection refused")
    observed = await observer(runtime).observe({})
    assert observed[NAME].running is None
    assert (observed[NAME].status.healthy, observed[NAME].status.detail) == (
        False,
        "connection refused",
    )


class Hanging(MemoryRuntime):
    """Never says what it runs."""

    async def discover(self, handles: Mapping[str, Mapping[str, Any]]) -> Sequence[Running]:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_runtime_that_hangs_counts_as_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_monitor, "DEADLINE_S", 0.01)
    observed = await observer(Hanging()).observe({})
    assert observed[NAME].running is None
    assert not observed[NAME].status.healthy and "within" in observed[NAME].status.detail


async def test_a_disabled_runtime_is_shown_as_such() -> None:
    observed = await observer(MemoryRuntime(), enabled=False).observe({})
    assert not observed[NAME].status.enabled
