"""Operators' requests are recorded, and so is how they ended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from modelium.control.intents import FAILED, Intents, _is_done
from modelium.errors import InputError
from modelium.models import Intent, Report
from modelium.models.decisions import IntentKind
from tests.modelium.conftest import World


def reported(outcome: str, **given: Any) -> Report:
    return Report(stage="load", outcome=outcome, **given)


@pytest.mark.parametrize("kind", ["load", "retry"])
def test_a_load_is_done_when_its_model_is_ready(kind: IntentKind) -> None:
    asked = Intent(id="i", at=1.0, kind=kind)
    outcomes = ("ready", "keep", "nothing", *sorted(FAILED))
    assert [o for o in outcomes if _is_done(asked, reported(o))] == ["ready"]


@pytest.mark.parametrize("kind", ["unload", "ingest", "approve", "restore"])
def test_anything_else_is_done_unless_its_stage_failed(kind: IntentKind) -> None:
    asked = Intent(id="i", at=1.0, kind=kind)
    outcomes = ("registered", "nothing", "unloaded", *sorted(FAILED))
    assert [o for o in outcomes if _is_done(asked, reported(o))] == [
        "registered", "nothing", "unloaded",
    ]  # fmt: skip


async def ended(world: World, result: Report | Exception, model: str | None = "asked") -> Intent:
    async def run() -> Report:
        if isinstance(result, Exception):
            raise result
        return result

    intents = Intents(services=world.services)
    asked = await intents.new("unload", model, {"key": 1})
    assert world.store.intents.get(asked.id) == asked
    assert world.services.attended == {asked.id}
    assert intents.follow(asked, run()) == asked
    await world.eventually(lambda: world.store.intents.get(asked.id).state != "pending")
    async with asyncio.timeout(60):
        while world.services.attended:  # noqa: ASYNC110 - left once the record is written
            await asyncio.sleep(0)
    await intents.aclose()
    found = world.store.intents.get(asked.id)
    assert found.finished_at is not None and found.finished_at > found.at
    assert (found.kind, found.parameters) == ("unload", {"key": 1})
    return found


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (reported("unloaded", model="a", reason="idle"), ("done", "idle", "a")),
        (reported("unloaded"), ("done", "unloaded", "asked")),
        (reported("busy", reason="2 in flight"), ("failed", "2 in flight", "asked")),
        (InputError("no such model"), ("failed", "no such model", "asked")),
        (KeyError("handle"), ("failed", "KeyError: 'handle'", "asked")),
    ],
)
async def test_the_end_of_a_run_is_that_of_what_was_asked(
    world: World, result: Report | Exception, told: tuple[str, str, str]
) -> None:
    found = await ended(world, result)
    assert (found.state, found.detail, found.model) == told


async def test_what_fails_before_its_run_is_let_go(world: World) -> None:
    intents = Intents(services=world.services)
    asked = await intents.new("load", "a", {})
    with intents.held(asked):
        pass
    assert world.services.attended == {asked.id}
    with pytest.raises(KeyError), intents.held(asked):
        raise KeyError("a bug")
    assert world.services.attended == set()


async def test_what_is_ended_by_hand_is_done_or_failed(world: World) -> None:
    intents = Intents(services=world.services)
    for ok, state in ((True, "done"), (False, "failed")):
        asked = await intents.new("remove", "a", {})
        found = await intents.end(asked, "so it ended", ok=ok)
        assert (found.state, found.detail) == (state, "so it ended")
        assert world.store.intents.get(asked.id) == found
        assert world.services.attended == set()
