"""What the runtimes were last seen to be and to run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from modelium.errors import Unavailable
from modelium.models import Deployment, LoadSettings, Model, RuntimeName, RuntimeStatus
from modelium.policy import Policy, RuntimeRules
from modelium.ports import Running
from modelium.stages import runtime_monitor
from modelium.stages.runtime_monitor import RuntimeMonitor, handles
from tests.fakes import fleets
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


@pytest.mark.parametrize("failure", [OSError(24, "Too many open files"), KeyError("app")])
async def test_what_a_driver_breaks_on_is_the_state_of_its_runtime(failure: Exception) -> None:
    runtime, other = MemoryRuntime(), MemoryRuntime()
    runtime.discover_failure = failure
    other.name = RuntimeName.TRITON
    both = {runtime.name: runtime, other.name: other}
    monitor = RuntimeMonitor(runtimes=both, policy=Policy(runtimes={NAME: RuntimeRules()}))
    observed = await monitor.observe({})
    assert observed[NAME].running is None
    assert str(failure) in observed[NAME].status.detail
    assert observed[other.name].running == []


class Slow(MemoryRuntime):
    """Says how it is once a test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_for = 0
        self.asked_again = asyncio.Event()
        self.answers = asyncio.Event()

    async def status(self) -> RuntimeStatus:
        self.asked_for += 1
        if self.asked_for > 1:
            self.asked_again.set()
        await self.answers.wait()
        return await super().status()


async def test_a_silent_runtime_is_asked_once_and_waited_for_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime_monitor, "LATE_S", 0.01)
    runtime = Slow()
    monitor = observer(runtime)
    async with asyncio.timeout(10.0):
        for _ in range(3):
            observed = await monitor.observe({})
            assert not observed[NAME].status.healthy
            assert "still being asked" in observed[NAME].status.detail
    assert runtime.asked_for == 1
    runtime.answers.set()
    await asyncio.sleep(0)
    monkeypatch.setattr(runtime_monitor, "LATE_S", 10.0)
    assert (await monitor.observe({}))[NAME].running == []


async def test_a_runtime_that_was_well_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Slow()
    runtime.answers.set()
    monitor = observer(runtime)
    await monitor.observe({})
    monkeypatch.setattr(runtime_monitor, "LATE_S", 0.0)
    runtime.answers.clear()
    observing = asyncio.create_task(monitor.observe({}))
    await runtime.asked_again.wait()
    runtime.answers.set()
    assert (await observing)[NAME].status.healthy


async def test_a_runtime_without_a_driver_that_models_stand_on_is_shown() -> None:
    monitor = RuntimeMonitor(runtimes={}, policy=Policy())
    assert await monitor.observe({NAME: {"tiny": {}}}) == {}
    (status,) = monitor.statuses()
    assert (status.name, status.enabled, status.healthy) == (NAME, False, False)
    assert "switched off in the configuration" in status.detail and "tiny" in status.detail
    await monitor.observe({})
    assert monitor.statuses() == ()


def loaded(name: str, instance: str, runtime: RuntimeName) -> Model:
    deployment = Deployment(
        model=name,
        version=1,
        instance=instance,
        runtime=runtime,
        devices=("n/g0",),
        settings=LoadSettings(),
        handle={"of": instance},
        started_at=0.0,
    )
    return fleets.model(name, deployment=deployment)


def test_each_runtime_is_given_the_handles_of_its_own_models() -> None:
    models = [
        loaded("a", "a", NAME),
        fleets.model("idle"),
        loaded("b", "b@2", NAME),
        loaded("c", "c", RuntimeName.VLLM),
    ]
    assert handles(models) == {
        NAME: {"a": {"of": "a"}, "b@2": {"of": "b@2"}},
        RuntimeName.VLLM: {"c": {"of": "c"}},
    }


async def test_what_is_wrong_with_a_runtime_is_told_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = MemoryRuntime()
    for failure, detail in (
        (KeyError("app"), "it cannot be looked at: KeyError: 'app'"),
        (TimeoutError("the proxy is slow"), "the proxy is slow"),
        (TimeoutError(), "no answer within 20 s"),
        (Unavailable("refused"), "refused"),
    ):
        runtime.discover_failure = failure
        seen = await observer(runtime).look(NAME, {})
        assert (seen.status, seen.running, seen.stats) == (
            RuntimeStatus(name=NAME, enabled=True, healthy=False, detail=detail),
            None,
            {},
        )
    off = await observer(runtime, enabled=False).look(NAME, {})
    assert (off.status.enabled, off.status.healthy) == (False, False)


async def test_a_late_answer_is_taken_up_and_not_asked_for_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime_monitor, "LATE_S", 0.005)
    runtime = Slow()
    monitor = observer(runtime)
    observed = await monitor.observe({})
    assert observed[NAME].status == RuntimeStatus(
        name=NAME,
        enabled=True,
        healthy=False,
        detail="no answer within 0.005 s; it is still being asked",
    )
    (late,) = monitor.late()
    assert monitor.statuses() == (observed[NAME].status,)
    runtime.answers.set()
    await asyncio.wait({late})
    assert monitor.late() == () and runtime.asked_for == 1
    await monitor.observe({})
    assert runtime.asked_for == 2, "what it answered meanwhile may be old"
    assert [status.healthy for status in monitor.statuses()] == [True]


async def test_a_query_that_was_cancelled_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_monitor, "LATE_S", 0.005)
    runtime = Slow()
    monitor = observer(runtime)
    await monitor.observe({})
    (late,) = monitor.late()
    late.cancel()
    await asyncio.wait({late})
    runtime.answers.set()
    monkeypatch.setattr(runtime_monitor, "LATE_S", 10.0)
    assert (await monitor.observe({}))[NAME].status.healthy


async def test_an_unhealthy_runtime_is_hardly_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_monitor, "LATE_S", 0.005)
    runtime = Slow()
    runtime.answers.set()
    runtime.healthy = False
    monitor = observer(runtime)
    await monitor.observe({})
    runtime.answers.clear()
    assert "still being asked" in (await monitor.observe({}))[NAME].status.detail
    runtime.answers.set()
    await asyncio.wait(monitor.late())


async def test_a_runtime_that_is_off_is_shown_beside_the_others() -> None:
    monitor = observer(MemoryRuntime())
    held: dict[RuntimeName, dict[str, dict[str, object]]] = {
        NAME: {},
        RuntimeName.VLLM: {"b": {}, "a": {}},
    }
    await monitor.observe(held)
    shown = [(s.name, s.enabled, s.healthy) for s in monitor.statuses()]
    assert shown == [(NAME, True, True), (RuntimeName.VLLM, False, False)]
    assert monitor.statuses()[1].detail == (
        "switched off in the configuration, while a, b may still be loaded in it; switch it on, or "
        "end what runs there"
    )
