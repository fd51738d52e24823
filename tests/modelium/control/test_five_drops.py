"""The seed's five drops and two devices, with teams told by the folders of the drops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from modelium.config import Config
from modelium.control.loop import Loop
from modelium.control.operations import Operations
from modelium.models import Device
from tests.fakes.devices import FixedInventory
from tests.modelium.conftest import World
from tests.samples import tiny_onnx

pytestmark = pytest.mark.slow

PRODUCTION = 'priority = "high"\nwishes = "Serves the shop."\n'

DROPS: dict[str, str | None] = {
    "lab/experiment-1": 'priority = "high"\nteam = "prod"\n',
    "experiment-2": 'priority = "high"\n',
    "research/new": None,
    "prod/chat": PRODUCTION,
    "prod/rank": PRODUCTION,
}
"""Place in the drop zone → note; those that matter most come last."""

TEAMS: dict[str, Any] = {"prod": {}, "research": {}, "lab": {"priority_ceiling": "low"}}


def configured(world: World, teams: dict[str, Any]) -> None:
    fields = world.services.config.model_dump(exclude_unset=True)
    fields["orchestration"]["policies"]["high_priority_teams"] = ["prod", "research"]
    world.services = replace(world.services)
    world.services.configure(Config.model_validate({**fields, "teams": teams}))
    world.services.repository.zone.make()


def free(world: World, *, on: bool) -> None:
    """Have two devices with room for one model each, or another job on both."""
    size = 520 * 1024**2
    world.services.devices = FixedInventory(
        *(
            Device(
                node="here",
                uuid=f"d{number}",
                kind="cpu",
                name="a CPU",
                total_bytes=size,
                free_bytes=size if on else 0,
            )
            for number in range(2)
        )
    )


async def drop(world: World, where: str, note: str | None, weight: float) -> None:
    folder = world.incoming / where
    tiny_onnx(folder, weight=weight)
    if note is not None:
        (folder / "modelium.toml").write_text(note)
    name = where.rpartition("/")[2]
    report = await world.launcher.ingest(path=str(folder))
    assert report.outcome == "registered", report
    await world.settled(name, "queued", "ready")


def in_state(world: World, state: str) -> set[str]:
    return {model.name for model in world.store.view()[1] if model.state == state}


async def settle(world: World, loop: Loop, **expected: set[str]) -> None:
    """Let the loop look, and wait until the models are in the states ``expected``."""
    await loop.tick()
    for state, names in expected.items():
        for name in names:
            await world.settled(name, state)
    assert {state: in_state(world, state) for state in expected} == expected


@pytest.fixture
async def five(world: World) -> World:
    configured(world, TEAMS)
    free(world, on=False)
    for weight, (where, note) in enumerate(DROPS.items(), start=1):
        await drop(world, where, note, float(weight))
    return world


async def test_the_two_of_production_are_loaded_and_the_others_queued(five: World) -> None:
    world, loop = five, Loop(services=five.services, signals=five.signals)
    assert in_state(world, "queued") == {where.rpartition("/")[2] for where in DROPS}
    free(world, on=True)
    waiting = {"new", "experiment-1", "experiment-2"}
    await settle(world, loop, ready={"chat", "rank"}, queued=waiting)
    owners = {model.name: (model.team, model.priority.value) for model in world.store.view()[1]}
    assert owners == {
        "chat": ("prod", "high"),
        "rank": ("prod", "high"),
        "new": ("research", "medium"),
        "experiment-1": ("lab", "low"),
        "experiment-2": (None, "low"),
    }


async def test_as_room_is_freed_the_important_team_is_before_the_experiments(five: World) -> None:
    world, loop = five, Loop(services=five.services, signals=five.signals)
    free(world, on=True)
    await settle(world, loop, ready={"chat", "rank"})
    await world.launcher.evict(models=["chat"], reason="an operator asked")
    await settle(world, loop, ready={"new", "rank"}, queued={"experiment-1", "experiment-2"})


async def test_explain_says_what_became_of_each_wish(five: World) -> None:
    operations = Operations(services=five.services)
    wishes = {name: (await operations.explain(name)).owner for name in ("chat", "experiment-1")}
    await operations.aclose()
    assert wishes["chat"] == (
        "team prod holds 0.00 GiB of device memory and has used 0 GPU-seconds in 24 h; its weight "
        "is 1",
        "its note: priority high: granted",
        "its note: words (read by people and the LLM only): Serves the shop.",
    )
    assert wishes["experiment-1"][1:] == (
        "its note: team prod: not granted: the model belongs to team lab; drop it into the folder "
        "of prod, or ask an operator to set teams.prod.claimable",
        "its note: priority high: not granted: its ceiling is low",
    )


async def test_within_a_class_teams_take_turns(world: World) -> None:
    configured(world, {"lab": {}, "shop": {}})
    free(world, on=False)
    for weight, where in enumerate(("lab/a1", "lab/a2", "lab/a3", "shop/b1", "shop/b2"), start=1):
        await drop(world, where, None, float(weight))
    free(world, on=True)
    loop = Loop(services=world.services, signals=world.signals)
    await settle(world, loop, ready={"a1", "b1"}, queued={"a2", "a3", "b2"})


async def test_a_team_at_its_quota_waits_with_the_reason(world: World) -> None:
    configured(world, {"lab": {"memory_quota_gib": 0.5}, "shop": {}})
    free(world, on=True)
    for weight, where in enumerate(("lab/a1", "lab/a2", "shop/b1"), start=1):
        await drop(world, where, None, float(weight))
    assert in_state(world, "ready") == {"a1", "b1"}
    waiting = world.store.model("a2")
    assert waiting.state == "queued"
    assert "that team lab holds; its memory_quota_gib is 0.50 GiB" in waiting.reason


async def test_a_team_that_has_used_up_its_gpu_seconds_makes_room(world: World) -> None:
    configured(world, {"lab": {"gpu_seconds_per_day": 100}, "shop": {}})
    free(world, on=True)
    for weight, where in enumerate(("lab/a1", "lab/a2"), start=1):
        await drop(world, where, None, float(weight))
    loop = Loop(services=world.services, signals=world.signals)
    await settle(world, loop, ready={"a1", "a2"})
    await drop(world, "shop/b1", None, 9.0)
    await settle(world, loop, ready={"a1", "a2"}, queued={"b1"})
    world.clock.advance(120)
    await loop.tick()
    assert world.store.team_usage.of_the_last_day()["lab"] > 100
    await loop.tick()
    await world.settled("b1", "ready")
    assert len(in_state(world, "ready") & {"a1", "a2"}) == 1
