"""What operators ask for becomes an intent, and its outcome is recorded there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from modelium.control.operations import Operations
from modelium.errors import InputError, LoadFailed, Unavailable, UnknownModel
from modelium.lifecycle import ModelState
from modelium.models import Intent, Priority, Trigger
from modelium.models.api_keys import KeyTerms
from modelium.stages.evict import evict
from modelium.traffic.request_log import LoggedRequest
from tests.fakes.llm import Answer, calls
from tests.modelium.conftest import Advised, World
from tests.modelium.teams import declare, drop
from tests.samples import risky_onnx, tiny_onnx

pytestmark = pytest.mark.slow

CHOICE = {"reason": "its card says production", "runtime": "ray_serve", "priority": "high"}


@pytest.fixture
async def operations(world: World) -> AsyncIterator[Operations]:
    opened = Operations(services=world.services)
    yield opened
    await opened.aclose()


async def outcome(world: World, intent: Intent) -> Intent:
    """Wait until ``intent`` has ended."""
    assert intent.state == "pending"
    await world.eventually(lambda: world.store.intents.get(intent.id).state != "pending")
    ended = world.store.intents.get(intent.id)
    assert ended.finished_at is not None
    return ended


async def refused(world: World, name: str = "tiny", *extra: str, **given: Any) -> dict[str, Any]:
    """Drop a model with files that are refused; return the reason that is kept with it."""
    folder = world.incoming / name
    risky_onnx(folder, *(extra or ("weights.pkl",)))
    report = await world.launcher.ingest(path=str(folder), **given)
    assert report.outcome == "rejected"
    reason: dict[str, Any] = json.loads((world.rejected / name / "reason.json").read_text())
    return reason


# --- load and unload ------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["load", "retry"])
async def test_a_teams_load_keeps_its_quota_and_an_operators_does_not(
    world: World, operations: Operations, verb: str
) -> None:
    declare(world, teams={"lab": {"memory_quota_gib": 0.01}})
    await drop(world, "lab/tiny")
    await world.settled("tiny", "queued")
    ask = getattr(operations, verb)
    ended = await outcome(world, await ask("tiny", trigger=Trigger.TEAM))
    assert "its memory_quota_gib is 0.01 GiB" in ended.detail
    assert world.store.model("tiny").state is ModelState.QUEUED
    newest = world.store.decisions.newest(model="tiny")[0]
    assert newest.plan.trigger is Trigger.TEAM
    await outcome(world, await ask("tiny"))
    assert world.store.model("tiny").state is ModelState.READY


async def test_a_retry_ends_a_quarantine_and_loads(world: World, operations: Operations) -> None:
    world.rule(quarantine_after=1)
    world.runtime.failure = LoadFailed("bad magic")
    await world.drop()
    await world.settled("tiny", "failed")
    assert world.store.model("tiny").quarantined
    await world.event("model.quarantined")
    world.runtime.failure = None
    ended = await outcome(world, await operations.retry("tiny"))
    assert (ended.state, ended.kind, ended.model) == ("done", "retry", "tiny")
    record = world.store.model("tiny")
    assert (record.state, record.failures) == (ModelState.READY, 0)
    assert ("model.retry", "tiny") in world.kinds()
    with pytest.raises(UnknownModel):
        await operations.retry("nobody")


async def test_a_load_that_ends_ready_is_done(world: World, operations: Operations) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    ended = await outcome(world, await operations.load("tiny"))
    assert (ended.state, ended.kind, ended.model) == ("done", "load", "tiny")
    assert ended.detail == world.store.model("tiny").reason
    assert world.store.model("tiny").state is ModelState.READY


async def test_a_load_that_ends_in_the_queue_is_failed(
    world: World, operations: Operations
) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.runtime.healthy = False
    await world.services.runtime_monitor.observe({})
    ended = await outcome(world, await operations.load("tiny"))
    record = world.store.model("tiny")
    assert (ended.state, ended.detail) == ("failed", record.reason)
    assert record.state is ModelState.QUEUED


async def test_a_load_that_fails_says_why(world: World, operations: Operations) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.runtime.failure = LoadFailed("bad magic")
    ended = await outcome(world, await operations.load("tiny"))
    assert (ended.state, ended.detail) == ("failed", "bad magic")


async def test_a_load_that_breaks_says_how(world: World, operations: Operations) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.runtime.failure = KeyError("handle")
    ended = await outcome(world, await operations.load("tiny"))
    assert (ended.state, ended.detail) == ("failed", "KeyError: 'handle'")


async def test_an_unload_is_done(world: World, operations: Operations) -> None:
    await world.load()
    ended = await outcome(world, await operations.unload("tiny"))
    assert (ended.state, ended.kind) == ("done", "unload")
    assert world.store.model("tiny").state is ModelState.UNLOADED
    assert world.store.decisions.newest(model="tiny")[0].plan.author == "operator"


async def stuck(world: World) -> None:
    """A model that its runtime did not unload."""
    await world.load()
    world.runtime.unload_failure = Unavailable("the proxy's port is taken")
    with pytest.raises(Unavailable):
        await evict(world.services, models=["tiny"], steps=world.steps)


async def test_an_unload_of_what_is_stuck_says_what_holds_it(
    world: World, operations: Operations
) -> None:
    await stuck(world)
    ended = await outcome(world, await operations.unload("tiny"))
    assert (ended.state, ended.detail) == ("failed", "the proxy's port is taken")


async def test_an_unload_of_what_was_stuck_ends_it(world: World, operations: Operations) -> None:
    await stuck(world)
    world.runtime.unload_failure = None
    ended = await outcome(world, await operations.unload("tiny"))
    assert ended.state == "done"
    assert world.store.model("tiny").state is ModelState.UNLOADED


async def test_an_unload_joins_the_one_in_progress(world: World, operations: Operations) -> None:
    await world.load()
    world.runtime.unload_gate.clear()
    first = asyncio.create_task(evict(world.services, models=["tiny"], steps=world.steps))
    await world.settled("tiny", "unloading")
    intent = await operations.unload("tiny")
    await world.idle()
    world.runtime.unload_gate.set()
    assert (await outcome(world, intent)).state == "done"
    await first
    assert len(world.runtime.unloads) == 1


async def test_a_load_of_what_is_stuck_is_not_done(world: World, operations: Operations) -> None:
    await stuck(world)
    ended = await outcome(world, await operations.load("tiny"))
    assert ended.state == "failed" and ended.detail
    assert world.store.model("tiny").state is ModelState.UNLOADING


async def test_a_load_of_what_could_not_be_analyzed_is_not_done(
    world: World, operations: Operations
) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    world.store.states.mark_unservable("tiny", reason="no header can be read")
    ended = await outcome(world, await operations.load("tiny"))
    if world.store.model("tiny").state is not ModelState.READY:
        assert ended.state == "failed" and ended.detail


async def test_an_unload_of_a_busy_model_is_failed(world: World, operations: Operations) -> None:
    await world.load()
    async with world.services.switchboard.admit("tiny"):
        ended = await outcome(world, await operations.unload("tiny"))
    assert ended.state == "failed"
    assert world.store.model("tiny").state is ModelState.READY


async def test_an_unload_that_the_policy_forbids_says_by_which_rule(
    world: World, operations: Operations
) -> None:
    await world.load()
    assert (await operations.pin("tiny", True)).pinned
    ended = await outcome(world, await operations.unload("tiny"))
    assert ended.state == "failed" and "pinned" in ended.detail
    assert not (await operations.pin("tiny", False)).pinned
    assert (await outcome(world, await operations.unload("tiny"))).state == "done"


async def test_an_unknown_model_is_refused_at_once(world: World, operations: Operations) -> None:
    for ask in (operations.load, operations.unload, operations.explain, operations.plan):
        with pytest.raises(UnknownModel, match="nobody"):
            await ask("nobody")
    assert await operations.intents() == []


# --- ingest and approve ---------------------------------------------------------------------------


async def test_an_ingest_is_done_and_names_its_model(world: World, operations: Operations) -> None:
    tiny_onnx(world.incoming / "tiny")
    ended = await outcome(world, await operations.ingest(path=str(world.incoming / "tiny")))
    assert (ended.state, ended.kind, ended.model) == ("done", "ingest", "tiny")


async def test_an_ingest_of_nothing_says_so(world: World, operations: Operations) -> None:
    ended = await outcome(world, await operations.ingest(path=str(world.incoming / "none")))
    assert ended.state == "failed" and str(world.incoming / "none") in ended.detail


async def test_a_rejected_drop_is_failed_with_its_reason(
    world: World, operations: Operations
) -> None:
    (world.incoming / "odd").mkdir()
    (world.incoming / "odd" / "notes.txt").write_text("not a model")
    ended = await outcome(world, await operations.ingest(path=str(world.incoming / "odd")))
    assert (ended.state, ended.model) == ("failed", "odd")
    reason = json.loads((world.rejected / "odd" / "reason.json").read_text())
    assert ended.detail == reason["message"]


async def test_an_approval_admits_what_was_refused(world: World, operations: Operations) -> None:
    reason = await refused(world)
    ended = await outcome(world, await operations.approve("tiny"))
    assert (ended.state, ended.kind, ended.model) == ("done", "approve", "tiny")
    assert world.store.model("tiny").digest == reason["digest"]
    assert world.store.rules.approvals(reason["digest"]) == {"pickle"}
    assert not (world.rejected / "tiny").exists()


async def test_what_cannot_be_approved_is_refused(world: World, operations: Operations) -> None:
    (world.incoming / "odd").mkdir()
    (world.incoming / "odd" / "notes.txt").write_text("not a model")
    await world.launcher.ingest(path=str(world.incoming / "odd"))
    with pytest.raises(InputError, match="odd was refused for"):
        await operations.approve("odd")
    assert (world.rejected / "odd" / "odd" / "notes.txt").exists()
    assert await operations.intents() == []


async def test_only_a_refused_drop_can_be_approved(world: World, operations: Operations) -> None:
    await world.load()
    with pytest.raises(InputError, match="tiny"):
        await operations.approve("tiny")


async def test_an_approval_covers_only_what_the_drop_was_refused_for(
    world: World, operations: Operations
) -> None:
    reason = await refused(world, "tiny", "weights.pkl", "modeling_tiny.py")
    assert reason["reason"] == "pickle"
    ended = await outcome(world, await operations.approve("tiny"))
    assert ended.state == "failed"
    again = json.loads((world.rejected / "tiny" / "reason.json").read_text())
    assert (again["reason"], again["digest"]) == ("remote-code", reason["digest"])
    assert world.store.rules.approvals(reason["digest"]) == {"pickle"}
    assert "tiny" not in world.store.names()


async def test_an_approval_covers_only_what_was_named(world: World, operations: Operations) -> None:
    reason = await refused(world, "tiny", "weights.pkl", "modeling_tiny.py")
    ended = await outcome(world, await operations.approve("tiny", ["remote-code"]))
    assert ended.state == "failed"
    assert world.store.rules.approvals(reason["digest"]) == {"remote-code"}
    ended = await outcome(world, await operations.approve("tiny", ["pickle"]))
    assert ended.state == "done"
    assert world.store.model("tiny").approvals == {"pickle", "remote-code"}


async def test_an_approval_covers_only_that_content(world: World, operations: Operations) -> None:
    await refused(world)
    await outcome(world, await operations.approve("tiny"))
    folder = world.incoming / "tiny"
    risky_onnx(folder, "weights.pkl", weight=2.0)
    assert (await world.launcher.ingest(path=str(folder))).outcome == "rejected"


async def test_team_and_priority_ceiling_survive_an_approval(
    world: World, operations: Operations
) -> None:
    await refused(world, team="research", priority_ceiling="medium")
    intent = await operations.approve("tiny")
    assert intent.parameters["team"] == "research"
    assert intent.parameters["priority_ceiling"] == "medium"
    await outcome(world, intent)
    model = world.store.model("tiny")
    assert (model.team, model.priority_ceiling) == ("research", Priority.MEDIUM)


# --- questions ------------------------------------------------------------------------------------


async def test_a_model_is_explained_with_its_decisions_and_events(
    world: World, operations: Operations
) -> None:
    await world.load()
    await world.event("model.ready")
    await world.request()
    explained = await operations.explain("tiny")
    assert explained.model is not None and explained.model.traffic.completed == 1
    assert explained.drops == ()
    assert [d.plan.trigger for d in explained.decisions] == [Trigger.INGEST]
    kinds = ["model.ready", "model.loading", "model.registered"]
    assert [e.kind for e in explained.events] == kinds


async def test_requests_that_are_not_stored_yet_count_in_outcomes(
    world: World, operations: Operations
) -> None:
    await world.load()
    ready = await world.event("model.ready")
    world.clock.advance(130)
    world.services.requests.add(LoggedRequest(ready.at + 4, "tiny", 3, 4, 0.5))
    with world.locked():
        (outcome,) = (await operations.explain("tiny")).outcomes
        assert outcome.asked_after_s is None, "nothing is lost where the store is locked"
    (outcome,) = (await operations.explain("tiny")).outcomes
    assert outcome.asked_after_s == pytest.approx(4, abs=0.01)
    assert len(world.store.history.requests(since=0.0)) == 1


async def test_the_report_counts_requests_that_are_not_stored_yet(
    world: World, operations: Operations
) -> None:
    await world.load()
    ready = await world.event("model.ready")
    world.clock.advance(3600)
    world.services.requests.add(LoggedRequest(ready.at + 4, "tiny", 3, 4, 0.5))
    (row,) = (await operations.report(seconds=7200)).authors
    assert row.never_asked == 0


async def test_drops_that_are_no_models_are_listed_and_explained(
    world: World, operations: Operations
) -> None:
    await refused(world)
    half = world.incoming / "half.onnx"
    half.touch()
    await world.launcher.ingest(path=str(half))
    incomplete, rejected = await operations.drops()
    assert (incomplete.name, incomplete.state) == ("half.onnx", "incomplete")
    assert (rejected.name, rejected.state, rejected.rule) == ("tiny", "rejected", "pickle")
    assert rejected.approvable and rejected.path == str(world.rejected / "tiny")
    for name in ("half", "half.onnx"):
        explained = await operations.explain(name)
        assert (explained.model, explained.drops) == (None, (incomplete,))
        assert [e.kind for e in explained.events] == ["drop.incomplete"]
    explained = await operations.explain("tiny")
    assert (explained.model, explained.drops) == (None, (rejected,))


async def test_a_model_is_explained_beside_a_rejected_drop_of_its_name(
    world: World, operations: Operations
) -> None:
    await world.load()
    await refused(world)
    explained = await operations.explain("tiny")
    assert explained.model is not None
    assert [drop.rule for drop in explained.drops] == ["pickle"]


async def test_a_plan_that_is_asked_for_is_not_carried_out(
    world: World, operations: Operations
) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])
    revision = world.store.revision()
    plan = await operations.plan("tiny")
    assert [a.action for a in plan.actions] == ["load"]
    assert world.store.revision() == revision


async def test_status_names_each_runtime(world: World, operations: Operations) -> None:
    status = await operations.status()
    assert (status["enabled"], status["node"]) == (True, "here")
    assert [(r["name"], r["healthy"]) for r in status["runtimes"]] == [("ray_serve", True)]
    assert status["revision"] == world.store.revision()


async def test_keys_are_issued_and_revoked_with_an_event_each(
    world: World, operations: Operations
) -> None:
    issued = await operations.issue_key(KeyTerms(name="app"))
    assert (await operations.revoke_key(issued.key.id)).revoked_at is not None
    assert [key.id for key in (await operations.keys()).values()] == [issued.key.id]
    assert [(e.kind, e.detail["key"]) for e in await operations.events()] == [
        ("key.revoked", issued.key.id),
        ("key.issued", issued.key.id),
    ]


async def test_what_was_set_off_goes_on_when_operations_close(world: World) -> None:
    operations = Operations(services=world.services)
    tiny_onnx(world.incoming / "tiny")
    intent = await operations.ingest(path=str(world.incoming / "tiny"))
    await operations.aclose()
    assert world.store.intents.get(intent.id).state == "pending"


async def test_a_decision_is_made_again_on_the_facts_of_then(advised: Advised) -> None:
    fake = await advised.played_by(lambda body: calls("decide", CHOICE))
    await advised.drop("tiny")
    await advised.world.settled("tiny", "ready")
    fake.player = lambda body: calls("decide", {**CHOICE, "priority": "medium"})
    operations = Operations(services=advised.world.services)
    (made,) = await operations.decisions(advised=True)
    again = await operations.rethink(made.id)
    assert again.decision == made
    (load,) = again.plan.actions
    assert load.action == "load" and load.priority is Priority.MEDIUM
    assert fake.seen[1]["messages"][:1] == fake.seen[0]["messages"][:1]
    assert len(await operations.decisions()) == 1, "asking again decides nothing"
    assert advised.world.store.model("tiny").priority is Priority.HIGH


async def test_a_decision_without_an_llm_cannot_be_made_again(advised: Advised) -> None:
    await advised.played_by(lambda body: Answer(status=500))
    await advised.drop("tiny")
    await advised.world.settled("tiny", "ready")
    await evict(advised.world.services, models=["tiny"])
    operations = Operations(services=advised.world.services)
    by_operator = (await operations.decisions())[0]
    with pytest.raises(InputError, match="has no stored snapshot"):
        await operations.rethink(by_operator.id)
