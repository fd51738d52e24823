"""What operators may ask, and what they are answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from agents.rules.planner import RulePlanner
from modelium.control.approval import _text
from modelium.control.operations import Operations
from modelium.errors import InputError, UnknownModel
from modelium.lifecycle import ModelState
from modelium.models import Decision, Intent, Plan, Trigger
from modelium.models.api_keys import KeyTerms
from modelium.stages.evict import evict
from modelium.stages.services import Trouble
from modelium.stages.sweeps import Schedule, Sweeps
from tests.fakes.llm import calls
from tests.modelium.conftest import Advised, World
from tests.modelium.control.test_operations import CHOICE
from tests.samples import risky_onnx


@pytest.fixture
async def operations(world: World) -> AsyncIterator[Operations]:
    opened = Operations(services=world.services)
    yield opened
    await opened.aclose()


async def test_records_are_found_by_id_and_listed_the_newest_first(
    world: World, operations: Operations
) -> None:
    store = world.store
    asked = [store.intents.save(Intent(id=f"i{n}", at=float(n), kind="load")) for n in range(3)]
    happened = [store.events.append("x", number=n) for n in range(3)]
    made = []
    traces: list[dict[str, str]] = [{}, {"endpoint": "llm"}, {}]
    for number, trace in enumerate(traces):
        plan = Plan(author="rules", trigger=Trigger.SWEEP)
        decision = Decision(
            id=f"d{number}", at=float(number), plan=plan, snapshot_digest="", trace=trace
        )
        store.decisions.record(decision)
        made.append(decision)
    assert await operations.intent("i1") == asked[1]
    assert await operations.intents() == asked[::-1]
    assert await operations.intents(limit=1) == asked[2:]
    assert await operations.events() == happened[::-1]
    assert await operations.events(limit=2, after=happened[1].id) == happened[2:]
    assert await operations.events(limit=1) == happened[2:]
    assert await operations.decision("d1") == made[1]
    assert await operations.decisions() == made[::-1]
    assert await operations.decisions(limit=1) == made[2:]
    assert await operations.decisions(advised=True) == made[1:2]
    for unknown in (operations.intent, operations.decision):
        with pytest.raises(InputError):
            await unknown("nothing")


async def test_a_model_is_shown_as_the_fleet_has_it(world: World, operations: Operations) -> None:
    await world.load()
    await world.request()
    shown = await operations.model("tiny")
    assert (shown.name, shown.state, shown.traffic.completed) == ("tiny", ModelState.READY, 1)
    assert [m.name for m in (await operations.fleet()).models] == ["tiny"]
    with pytest.raises(UnknownModel):
        await operations.model("nobody")


async def test_an_llm_that_is_not_configured_is_not_asked_again(advised: Advised) -> None:
    await advised.played_by(lambda body: calls("decide", CHOICE))
    await advised.drop("tiny")
    await advised.world.settled("tiny", "ready")
    operations = Operations(services=replace(advised.world.services, brain=RulePlanner()))
    (made,) = await operations.decisions(advised=True)
    with pytest.raises(InputError) as told:
        await operations.rethink(made.id)
    assert str(told.value) == "no LLM is configured; set brain.base_url and brain.model"


async def test_notices_are_those_of_the_schedule_and_of_tasks(
    world: World, operations: Operations
) -> None:
    assert operations.notices() == []
    world.services.sweeps = Sweeps(scheduled=True)
    world.services.sweeps.follow(Schedule(paused_since=1000.0))
    now = world.clock.monotonic()
    world.services.troubles["loop"] = Trouble(at=now, sentence="the loop task failed")
    paused, failed = operations.notices()
    assert paused.startswith("idle evictions are paused in Prefect since ")
    assert failed == "the loop task failed"
    assert (await operations.status())["notices"] == [paused, failed]


async def test_a_service_without_a_file_reads_none_again(operations: Operations) -> None:
    with pytest.raises(InputError, match="a configuration that cannot be read again"):
        await operations.reload()


async def test_what_an_operator_did_is_told_with_the_keys_name(
    world: World, operations: Operations
) -> None:
    issued = await operations.issue_key(KeyTerms(name="app"))
    assert issued.key.name == "app" and len(issued.key.id) == 12
    revoked = await operations.revoke_key(issued.key.id)
    assert revoked.id == issued.key.id
    told = {"key": issued.key.id, "name": "app"}
    assert [(e.kind, e.detail) for e in world.heard] == [
        ("key.issued", told), ("key.revoked", told),
    ]  # fmt: skip


async def test_the_reason_of_an_unload_is_the_operator(
    world: World, operations: Operations
) -> None:
    await world.load()
    asked = await operations.unload("tiny")
    await world.settled("tiny", "unloaded")
    assert world.store.model("tiny").reason == "an operator asked"
    assert (asked.kind, asked.model, asked.parameters) == ("unload", "tiny", {})


async def test_one_of_several_folders_is_approved_for_what_was_named(
    world: World, operations: Operations
) -> None:
    repository = world.services.repository.published
    for name in ("a", "b"):
        risky_onnx(repository / name, "weights.pkl")
        await world.launcher.ingest(path=str(repository / name))
    rejected = {drop.name: drop for drop in world.services.pending.all()}
    asked = await operations.approve("b", ["remote-code"])
    assert asked.parameters == {
        "path": str(repository / "b"), "name": None, "team": None, "priority_ceiling": None,
        "bound": None,
    }  # fmt: skip
    assert (asked.kind, asked.model) == ("approve", "b")
    await world.eventually(lambda: world.store.intents.get(asked.id).state == "failed")
    assert world.store.rules.approvals(rejected["b"].digest) == {"remote-code"}
    asked = await operations.approve("b")
    await world.eventually(lambda: "b" in world.store.names())
    assert world.store.rules.approvals(rejected["b"].digest) == {"remote-code", "pickle"}


async def test_a_drop_is_explained_by_the_model_that_it_would_be(
    world: World, operations: Operations
) -> None:
    half = world.incoming / "half.onnx"
    half.touch()
    await world.launcher.ingest(path=str(half))
    world.store.events.append("x", model="half")
    world.store.events.append("x", model="other")
    explained = await operations.explain("half.onnx")
    assert [e.kind for e in explained.events] == ["x", "drop.incomplete"]
    with pytest.raises(UnknownModel):
        await operations.explain("other")
    world.store.events.append("model.removed", model="other")
    explained = await operations.explain("other")
    assert (explained.model, explained.drops) == (None, ())
    assert [e.kind for e in explained.events] == ["model.removed", "x"]


@pytest.mark.parametrize(("value", "text"), [("a", "a"), ("", ""), (None, None), (3, None)])
def test_only_text_is_taken_from_what_was_kept(value: object, text: str | None) -> None:
    assert _text(value) == text


async def test_a_model_that_is_gone_is_not_acted_on(world: World, operations: Operations) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.store.twins.stand_by("tiny")
    said = (
        "tiny@1 is version 1 of tiny, which is being switched; "
        "act on tiny, or wait until the switch is over"
    )
    for ask in (operations.load, operations.unload, operations.retry):
        with pytest.raises(InputError) as told:
            await ask("tiny@1")
        assert str(told.value) == said
    with pytest.raises(InputError):
        await operations.pin("tiny@1", True)
    assert await operations.intents() == []
    world.store.twins.drop("tiny@1")
