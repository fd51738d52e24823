"""What a load leaves as evidence, and what later decisions make of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from modelium.errors import FailureKind, LoadFailed, Unavailable
from modelium.models import ModelFormat, RuntimeName, RuntimeStatus
from modelium.models.outcomes import ClassFailures, ModelClass
from modelium.stages.load import load
from modelium.stages.monitor import monitor
from modelium.stages.setups import class_failures, of_teams, setups
from modelium.stages.snapshot import snapshot
from tests.fakes.fleets import model
from tests.modelium.conftest import World
from tests.modelium.stages.rows import (
    booked,
    configured,
    events,
    ready,
    registered,
    scripted,
    setup,
    with_files,
)

pytestmark = [pytest.mark.unfinished("models without files"), pytest.mark.slow]

RAY = RuntimeName.RAY_SERVE
LLAMA = ModelClass(format=ModelFormat.TRANSFORMERS, architecture="LlamaForCausalLM")


async def fails(world: World, name: str, error: Exception) -> None:
    """Have a load of ``name`` fail."""
    world.runtime.failure = error
    with pytest.raises(type(error)):
        await load(world.services, model=name, decision=booked(world, name))


def stuck() -> LoadFailed:
    return LoadFailed("no progress", kind=FailureKind.STUCK)


async def test_failed_loads_are_evidence_in_the_next_snapshot(world: World) -> None:
    scripted(world)
    for name in ("a", "b"):
        with_files(world, name)
        await fails(world, name, stuck())
    (found,) = (await snapshot(world.services)).class_failures
    assert found == ClassFailures(
        model_class=LLAMA,
        runtime=RAY,
        failures=2,
        models=("a", "b"),
        teams={"a": "", "b": ""},
        last_at=next(e.at for e in world.heard if e.kind == "model.failed" and e.model == "b"),
    )
    world.runtime.failure = None
    with_files(world, "c")
    await load(world.services, model="c", decision=booked(world, "c"))
    assert (await snapshot(world.services)).class_failures == ()


def test_failures_are_told_with_the_teams_of_the_models_that_are_there() -> None:
    given = {"model_class": LLAMA, "runtime": RAY, "failures": 3, "last_at": 1.0}
    found = of_teams(
        [
            ClassFailures(models=("a", "b", "gone"), **given),
            ClassFailures(models=("gone",), **given),
        ],
        [model("a", team="t"), model("b"), model("c", team="u")],
    )
    assert found == (
        ClassFailures(models=("a", "b"), teams={"a": "t", "b": ""}, **given),
        ClassFailures(models=(), **given),
    )


async def test_an_engine_that_is_lost_soon_is_evidence(world: World) -> None:
    registered(world)
    ready(world)
    world.runtime.states["tiny"] = "unhealthy"
    await monitor(world.services)
    (found,) = await class_failures(world.services)
    assert (found.failures, found.models) == (1, ("tiny",))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (LoadFailed("no", kind=FailureKind.OUT_OF_MEMORY), "out-of-memory"),
        (LoadFailed("no", kind=FailureKind.BAD_FILES), "bad-files"),
        (Unavailable("does not answer"), "passing"),
    ],
)
async def test_what_is_no_fault_of_the_runtime_is_no_evidence(
    world: World, error: Exception, kind: str
) -> None:
    scripted(world)
    with_files(world)
    await fails(world, "tiny", error)
    ((_model, detail),) = events(world, "model.failed")
    assert detail["kind"] == kind
    assert await class_failures(world.services) == ()


async def test_a_cancelled_load_is_no_evidence(world: World) -> None:
    scripted(world)
    with_files(world)
    world.runtime.gate.clear()
    task = asyncio.create_task(load(world.services, model="tiny", decision=booked(world)))
    await world.runtime.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(events(world, "model.aborted")) == 1
    assert await class_failures(world.services) == ()


@pytest.mark.parametrize(("seconds", "count"), [(86_000.0, 1), (86_500.0, 0)])
async def test_evidence_is_forgotten_after_a_day(world: World, seconds: float, count: int) -> None:
    scripted(world)
    with_files(world)
    await fails(world, "tiny", stuck())
    world.clock.advance(seconds)
    assert len(await class_failures(world.services)) == count


async def test_where_the_rule_is_off_nothing_is_read(world: World) -> None:
    scripted(world)
    with_files(world)
    await fails(world, "tiny", stuck())
    world.rule(avoid_runtime_after=0)
    assert await class_failures(world.services) == ()


@pytest.mark.parametrize("section", ["ray_serve", "vllm"])
async def test_a_changed_section_of_the_runtime_ends_the_evidence(
    world: World, section: str
) -> None:
    scripted(world)
    with_files(world)
    await fails(world, "tiny", stuck())
    configured(world, section, default_settings={"max_num_seqs": 3})
    assert len(await class_failures(world.services)) == (section == "vllm")


def test_a_setup_is_the_section_and_the_version_of_the_engine(world: World) -> None:
    found = setups(world.services)
    assert set(found) == set(RuntimeName)
    assert {each.engine for each in found.values()} == {""}
    assert len({each.settings for each in found.values()}) == len(RuntimeName)
    known = (RuntimeStatus(name=RAY, enabled=True, healthy=True, version="2.9"),)

    class Monitor:
        def statuses(self) -> tuple[RuntimeStatus, ...]:
            return known

    services: Any = replace(world.services, runtime_monitor=Monitor())  # type: ignore[arg-type]
    assert setups(services)[RAY].engine == "2.9"
    assert setup(world) == {"runtime": "ray_serve", "setup": [found[RAY].settings, ""]}
