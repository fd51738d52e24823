"""A load ends ready, failed, queued or cancelled, and its memory is accounted for in each case."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from modelium.errors import FailureKind, LoadFailed, ModeliumError
from modelium.lifecycle import ModelState
from modelium.models import GIB, EvictionCause, Fleet, Load, Plan, RuntimeName, Trigger, Unload
from modelium.models.advice import Advice
from modelium.policy import Policy
from modelium.policy.backoff import LONGEST_PAUSE_S
from modelium.ports import Question
from modelium.stages.evict import evict
from modelium.stages.load import MEMORY_WAIT_S, POLL_S, load
from modelium.stages.monitor import monitor
from tests.fakes.devices import CPU
from tests.fakes.llm import calls
from tests.modelium.conftest import Advised, World

pytestmark = pytest.mark.slow


async def unloaded(world: World) -> None:
    await world.load()
    await evict(world.services, models=["tiny"])


async def failed_loads(world: World, count: int) -> None:
    """Let ``count`` loads fail, one after the other."""
    world.runtime.failure = LoadFailed("bad magic")
    for _ in range(count):
        world.clock.advance(LONGEST_PAUSE_S)
        with pytest.raises(LoadFailed):
            await load(world.services, model="tiny", steps=world.steps)


async def test_a_failed_load_gives_its_memory_back_and_backs_off(world: World) -> None:
    world.runtime.failure = LoadFailed("CUDA out of memory", kind=FailureKind.OUT_OF_MEMORY)
    await world.drop()
    await world.event("model.failed")
    record = world.store.model("tiny")
    assert record.failures == 1 and record.retry_at is not None
    assert "out of memory" in record.reason
    assert not world.store.view()[2]
    assert world.store.decisions.newest(model="tiny")[0].outcome == "failed"
    assert world.kinds()[-1] == ("model.failed", "tiny")
    assert "out of memory" in world.heard[-1].detail["reason"]


async def test_failures_are_forgotten_only_after_a_while_of_health(world: World) -> None:
    await unloaded(world)
    await failed_loads(world, 2)
    world.runtime.failure = None
    world.clock.advance(LONGEST_PAUSE_S)
    await load(world.services, model="tiny", steps=world.steps)
    record = world.store.model("tiny")
    assert (record.state, record.failures, record.retry_at) == (ModelState.READY, 2, None)
    world.clock.advance(world.services.policy.healthy_after_s - 1)
    await monitor(world.services)
    assert world.store.model("tiny").failures == 2
    world.clock.advance(2)
    await monitor(world.services)
    assert world.store.model("tiny").failures == 0


async def test_a_second_load_joins_the_first(world: World) -> None:
    world.clock.hurried = False
    world.runtime.gate.clear()
    await world.drop()
    await world.settled("tiny", "loading")
    second = asyncio.create_task(load(world.services, model="tiny"))
    await world.clock.asleep()
    world.runtime.gate.set()
    await world.settled("tiny", "ready")
    world.clock.advance(POLL_S)
    assert (await second).outcome == "ready"
    assert world.runtime.loads == 1


async def test_a_ready_model_is_not_loaded_again(world: World) -> None:
    await world.load()
    assert (await load(world.services, model="tiny")).outcome == "ready"
    assert world.runtime.loads == 1


async def test_a_decision_whose_model_is_no_longer_loading_loads_nothing(world: World) -> None:
    await unloaded(world)
    report = await load(world.services, model="tiny", decision="of-before")
    assert report.outcome == "unloaded"
    assert world.runtime.loads == 1


async def cancelled(world: World) -> None:
    world.runtime.gate.clear()
    world.runtime.asked.clear()
    task = asyncio.create_task(load(world.services, model="tiny", steps=world.steps))
    await world.runtime.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    world.runtime.gate.set()


async def test_a_cancelled_load_leaves_nothing_booked(world: World) -> None:
    await unloaded(world)
    await cancelled(world)
    assert world.store.model("tiny").state is ModelState.UNLOADED
    assert not world.store.view()[2]


async def test_a_cancelled_load_counts_as_no_failure(world: World) -> None:
    await unloaded(world)
    await cancelled(world)
    record = world.store.model("tiny")
    assert (record.failures, record.retry_at) == (0, None)
    assert record.reason == "the load was cancelled"
    assert world.kinds()[-1] == ("model.aborted", "tiny")
    made = world.store.decisions.newest(model="tiny")[0]
    assert (made.outcome, made.detail) == ("failed", "the load was cancelled")
    assert 'modelium_load_duration_seconds_count{outcome="cancelled"' in world.exposed()
    assert (await load(world.services, model="tiny", steps=world.steps)).outcome == "ready"


async def test_giving_up_is_not_cut_short_by_a_second_cancellation(world: World) -> None:
    await unloaded(world)
    world.runtime.gate.clear()
    world.runtime.asked.clear()
    task = asyncio.create_task(load(world.services, model="tiny", steps=world.steps))
    await world.runtime.asked.wait()
    task.cancel()
    while not task.done():
        await asyncio.sleep(0)
        task.cancel()
    await world.settled("tiny", "unloaded")
    assert not world.store.view()[2]


async def booked(world: World, *, weight_bytes: int) -> str:
    """Book a load of the unloaded model that nobody has carried out yet."""
    action = Load(
        model="tiny",
        runtime=RuntimeName.RAY_SERVE,
        devices=(CPU.id,),
        reserve={CPU.id: weight_bytes},
        reason="test",
    )
    plan = Plan(
        author="rules",
        trigger=Trigger.OPERATOR,
        subject="tiny",
        actions=(action,),
        revision=world.store.revision(),
    )
    return world.store.accept(plan, snapshot_digest="", trace={}).id


def new_version(world: World) -> None:
    """Register another content for the model, as ingest does."""
    record = world.store.model("tiny")
    world.store.register(
        "tiny",
        path=world.incoming,
        digest="sha256:other",
        team=None,
        priority=record.priority,
        priority_ceiling=record.priority_ceiling,
        pinned=False,
        profile=record.profile,
    )


@pytest.mark.unfinished("a version without files")
async def test_a_version_that_was_replaced_before_its_load_is_queued_again(world: World) -> None:
    await unloaded(world)
    decision = await booked(world, weight_bytes=GIB)
    new_version(world)
    report = await load(world.services, model="tiny", decision=decision)
    assert report.outcome == "queued"
    assert world.runtime.loads == 1, "the old version is not loaded"
    assert world.store.model("tiny").state is ModelState.QUEUED
    assert not world.store.view()[2]
    made = world.store.decisions.get(decision)
    assert (made.outcome, made.detail) == ("failed", report.reason)


async def test_a_version_that_was_replaced_during_its_load_is_analyzed_again(world: World) -> None:
    world.runtime.gate.clear()
    await world.drop()
    await world.runtime.asked.wait()
    await world.drop(weight=2.0)
    world.runtime.gate.set()
    record = await world.until("tiny", lambda m: m.state == "ready" and not m.outdated)
    assert record.deployment is not None and record.deployment.version == 2
    assert [r.version for r in world.runtime.requests] == [1, 2]


async def test_a_load_whose_memory_never_comes_free_is_queued(world: World) -> None:
    await unloaded(world)
    decision = await booked(world, weight_bytes=2 * GIB)
    world.devices.devices = (CPU.model_copy(update={"free_bytes": GIB}),)
    began = world.clock.monotonic()
    report = await load(world.services, model="tiny", decision=decision)
    assert world.clock.monotonic() - began >= MEMORY_WAIT_S
    assert report.outcome == "queued" and "memory" in report.reason
    assert world.runtime.loads == 1
    assert not world.store.view()[2]


async def test_a_load_waits_for_its_memory(world: World) -> None:
    await unloaded(world)
    world.clock.hurried = False
    decision = await booked(world, weight_bytes=2 * GIB)
    world.devices.devices = (CPU.model_copy(update={"free_bytes": GIB}),)
    loading = asyncio.create_task(load(world.services, model="tiny", decision=decision))
    await world.clock.asleep()
    world.devices.devices = (CPU,)
    world.clock.advance(POLL_S)
    assert (await loading).outcome == "ready"


async def test_a_load_is_asked_for_with_what_is_booked(world: World) -> None:
    await unloaded(world)
    decision = await booked(world, weight_bytes=2 * GIB)
    await load(world.services, model="tiny", decision=decision)
    request = world.runtime.requests[-1]
    assert request.reserve == {CPU.id: 2 * GIB}
    assert request.devices == (CPU,)
    assert not request.allow_remote_code


async def test_code_runs_only_where_the_operator_allowed_it(world: World) -> None:
    await unloaded(world)
    world.store.rules.approve("tiny", digest=world.store.model("tiny").digest, what=["pickle"])
    await load(world.services, model="tiny", steps=world.steps)
    assert not world.runtime.requests[-1].allow_remote_code
    await evict(world.services, models=["tiny"])
    world.store.rules.approve("tiny", digest=world.store.model("tiny").digest, what=["remote-code"])
    await load(world.services, model="tiny", steps=world.steps)
    assert world.runtime.requests[-1].allow_remote_code


async def test_requests_that_wait_for_a_failing_load_are_refused(world: World) -> None:
    await unloaded(world)
    world.runtime.gate.clear()
    world.runtime.asked.clear()
    world.runtime.failure = LoadFailed("bad magic")
    loading = asyncio.create_task(load(world.services, model="tiny", steps=world.steps))
    await world.runtime.asked.wait()
    waiting = asyncio.create_task(world.request())
    await asyncio.sleep(0)
    assert world.services.switchboard.traffic.pending("tiny") == 1
    world.runtime.gate.set()
    with pytest.raises(LoadFailed):
        await loading
    with pytest.raises(Exception, match="bad magic"):
        await waiting


async def test_a_preference_is_forgotten_once_a_load_with_it_failed(advised: Advised) -> None:
    choice = {"reason": "its card says production", "runtime": "ray_serve", "priority": "high"}
    advised.world.runtime.failure = LoadFailed("no", kind=FailureKind.UNSUPPORTED)
    await advised.played_by(lambda body: calls("decide", choice), triton=True)
    await advised.drop("tiny")
    await advised.world.settled("tiny", "failed")
    (made,) = advised.world.store.decisions.newest(model="tiny")
    assert made.plan.preferences["tiny"].runtime is RuntimeName.RAY_SERVE
    assert advised.world.store.model("tiny").preference is None


class MakesRoom:
    """A brain that unloads ``victim`` for every load, and loads as it did before."""

    def __init__(self, world: World, victim: str) -> None:
        self._world = world
        self._victim = victim

    async def advise(self, question: Question, fleet: Fleet, policy: Policy) -> Advice | None:
        return None

    async def decide(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice | None = None
    ) -> Plan:
        made = self._world.store.decisions.newest(model=question.model)
        again = next(a for d in made for a in d.plan.actions if isinstance(a, Load))
        leave = Unload(model=self._victim, cause=EvictionCause.SPACE, reason="makes room")
        return Plan(
            author="rules",
            trigger=question.trigger,
            subject=question.model,
            actions=(leave, again),
            reason="test",
        )


async def test_a_load_that_is_cancelled_while_it_makes_room_leaves_nothing_booked(
    world: World,
) -> None:
    await unloaded(world)
    await world.load("other")
    world.services = replace(world.services, brain=MakesRoom(world, "other"))
    world.runtime.unload_gate.clear()
    task = asyncio.ensure_future(load(world.services, model="tiny"))
    await world.settled("other", "unloading")
    assert world.store.model("tiny").state is ModelState.LOADING
    task.cancel()
    world.runtime.unload_gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.store.model("tiny").state is ModelState.UNLOADED
    assert "tiny" not in {booking.model for booking in world.store.view()[2]}


async def test_another_models_failed_eviction_is_not_charged_to_the_load(world: World) -> None:
    await unloaded(world)
    await world.load("other")
    world.services = replace(world.services, brain=MakesRoom(world, "other"))
    world.runtime.unload_failures["other"] = ModeliumError("other does not unload")
    report = await load(world.services, model="tiny", steps=world.steps)
    assert report.outcome == "queued" and "other does not unload" in report.reason
    record = world.store.model("tiny")
    assert record.state is ModelState.QUEUED
    assert (record.failures, record.retry_at, record.quarantined) == (0, None, False)
    assert "tiny" not in {booking.model for booking in world.store.view()[2]}
    assert world.store.model("other").state is ModelState.UNLOADING, "it holds its memory"
    made = world.store.decisions.newest(model="tiny")[0]
    assert (made.outcome, made.detail) == ("failed", report.reason)


async def test_what_the_driver_reduced_is_what_the_store_keeps(world: World) -> None:
    world.runtime.reduced = {"max_model_len": 1024, "max_num_seqs": 2}
    await world.load()
    record = world.store.model("tiny")
    assert record.deployment is not None
    effective = record.deployment.settings
    assert (effective.max_model_len, effective.max_num_seqs) == (1024, 2)
    assert "with max_model_len 1024, max_num_seqs 2, as more did not start" in record.reason
    ready = next(event for event in world.heard if event.kind == "model.ready")
    assert ready.detail["reduced"] == "max_model_len 1024, max_num_seqs 2"

    # The next load starts from what worked.
    world.runtime.reduced = {}
    await evict(world.services, models=["tiny"])
    await load(world.services, model="tiny", steps=world.steps)
    again = world.runtime.requests[-1].settings
    assert (again.max_model_len, again.max_num_seqs) == (1024, 2)
    assert "did not start" not in world.store.model("tiny").reason
