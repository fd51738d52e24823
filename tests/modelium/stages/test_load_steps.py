"""The steps of a load: what it waits for, what the runtime is asked, what a failure leaves."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelium.errors import DeadlineExceeded, FailureKind, LoadFailed, ModeliumError, Unavailable
from modelium.lifecycle import ModelState
from modelium.models import GIB, Load, Report, RuntimeName, Unload
from modelium.models.load_time import load_bound_s
from modelium.policy.backoff import FIRST_PAUSE_S
from modelium.stages import load as loading
from modelium.stages.load import POLL_S, load
from tests.fakes.devices import CPU
from tests.modelium.conftest import World
from tests.modelium.stages.rows import (
    accepted,
    background,
    booked,
    configured,
    deployment_of,
    draining,
    events,
    ready,
    registered,
    scripted,
    states,
    with_files,
)

pytestmark = [pytest.mark.unfinished("models without files"), pytest.mark.slow]

OTHER = CPU.model_copy(update={"uuid": "cpu-1", "index": 1})
ROOM = int(CPU.total_bytes * 0.9)
"""What models may take of the CPU."""


def outcome_of(world: World, decision: str) -> tuple[str, str]:
    made = world.store.decisions.get(decision)
    return made.outcome, made.detail


# --- who asks -------------------------------------------------------------------------------------


async def test_an_operators_load_is_decided_first_and_carried_out(world: World) -> None:
    with_files(world)
    world.store.states.mark_analyzed("tiny")
    await world.services.runtime_monitor.observe({})
    report = await load(world.services, model="tiny", steps=world.steps)
    assert world.ran == [
        ("decide", {"model": "tiny", "trigger": "operator", "handed": True, "carry_out": False})
    ], "nothing is evicted for it"
    assert (report.stage, report.outcome, report.model) == ("load", "ready", "tiny")
    assert (report.runtime, report.devices) == (RuntimeName.RAY_SERVE, (CPU.id,))
    assert report.details == {"load_s": deployment_of(world).load_s}
    again = await load(world.services, model="tiny", steps=world.steps)
    assert (again.stage, again.outcome, again.reason) == ("load", "ready", "it is already loaded")
    assert len(world.ran) == 1


@pytest.mark.parametrize(
    "decided",
    [
        Report(stage="decide", outcome="queued", reason="no room", decision="d"),
        Report(stage="decide", outcome="load", reason="nothing is recorded"),
    ],
)
async def test_a_load_that_is_not_booked_is_reported_as_it_was_decided(
    world: World, decided: Report
) -> None:
    registered(world)
    scripted(world, decide=decided)
    report = await load(world.services, model="tiny")
    assert report == decided.model_copy(update={"stage": "load"})


async def test_a_load_that_is_no_longer_wanted_ends_its_decision(world: World) -> None:
    registered(world)
    decision = booked(world)
    world.store.states.cancel_load("tiny", reason="cancelled")
    report = await load(world.services, model="tiny", decision=decision)
    why = "the decision is no longer in force"
    assert (report.outcome, report.reason, report.devices) == ("unloaded", why, ())
    assert outcome_of(world, decision) == ("failed", why)
    assert world.runtime.loads == 0


@pytest.mark.parametrize("late", [False, True])
async def test_a_load_in_progress_is_waited_for_as_long_as_one_may_take(
    world: World, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(world)
    booked(world)
    world.clock.advance(1000.0)
    monkeypatch.setattr(loading, "load_bound_s", lambda *_args: 2.5 * POLL_S)
    if late:
        with pytest.raises(DeadlineExceeded, match="tiny is still loading"):
            await loading._join(world.services, "tiny")
        assert world.clock.slept == [POLL_S] * 3
        return
    world.clock.hurried = False
    joining = asyncio.create_task(load(world.services, model="tiny", steps=world.steps))
    for _ in range(2):
        await world.clock.asleep()
        world.clock.advance(POLL_S)
    await world.clock.asleep()
    world.store.states.requeue("tiny", reason="no room after all")
    world.clock.advance(POLL_S)
    report = await joining
    assert (report.outcome, report.reason) == ("queued", "no room after all")


# --- its memory -----------------------------------------------------------------------------------


async def memory(world: World, decision: str, name: str = "tiny") -> bool:
    world.clock.slept.clear()
    return await loading._memory(world.services, name, decision)


@pytest.mark.parametrize(("held", "free"), [(ROOM, True), (ROOM + 1, False)])
async def test_memory_is_waited_for_until_it_is_free(
    world: World, held: int, free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "MEMORY_WAIT_S", 2 * POLL_S)
    registered(world)
    decision = booked(world, held=held)
    world.clock.advance(1000.0)
    assert await memory(world, decision) is free
    assert world.clock.slept == ([] if free else [POLL_S] * 2)


async def test_memory_of_other_models_is_theirs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "MEMORY_WAIT_S", 0.0)
    registered(world, "other")
    booked(world, "other", held=GIB)
    registered(world)
    decision = booked(world, held=ROOM - GIB)
    assert await memory(world, decision) is True
    world.store.states.cancel_load("tiny", reason="")
    assert await memory(world, booked(world, held=ROOM - GIB + 1)) is False


async def test_memory_has_to_be_free_on_every_device(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "MEMORY_WAIT_S", 0.0)
    full = OTHER.model_copy(update={"free_bytes": 0})
    registered(world)
    world.store.states.mark_analyzed("tiny")
    action = Load(
        model="tiny",
        runtime=RuntimeName.RAY_SERVE,
        devices=(CPU.id, OTHER.id),
        reserve={CPU.id: GIB, OTHER.id: GIB},
        reason="",
    )
    decision = accepted(world, action)
    for devices, free in (((CPU, OTHER), True), ((CPU, full), False), ((full, CPU), False)):
        world.devices.devices = devices
        assert await memory(world, decision) is free
    fine = OTHER.model_copy(update={"uuid": "cpu-2", "free_bytes": 0})
    world.devices.devices = (CPU, OTHER, fine)
    assert await memory(world, decision) is True, "it holds nothing there"


@pytest.mark.parametrize(
    ("promised", "releasing", "free"),
    [(True, True, False), (True, False, True), (False, True, True)],
)
async def test_only_a_promised_eviction_that_goes_on_is_waited_for(
    world: World,
    promised: bool,
    releasing: bool,
    free: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "MEMORY_WAIT_S", 0.0)
    for name in ("tiny", "other", "third"):
        registered(world, name)
    ready(world, "other")
    ready(world, "third")
    world.store.states.mark_analyzed("tiny")
    action = Load(
        model="tiny",
        runtime=RuntimeName.RAY_SERVE,
        devices=(CPU.id,),
        reserve={CPU.id: GIB},
        reason="",
    )
    leave = Unload(model="other" if promised else "third", reason="")
    decision = accepted(world, leave, action)
    if not promised:
        world.store.states.cancel_eviction("third", reason="busy")
        draining(world, "other")
    elif not releasing:
        world.store.states.cancel_eviction("other", reason="busy")
    assert await memory(world, decision) is free


async def test_no_memory_is_waited_for_by_what_is_removed(world: World) -> None:
    registered(world)
    decision = booked(world, held=2 * ROOM)
    world.store.lineage.begin_removal("tiny", by="me", purge=False)
    assert await memory(world, decision) is True
    assert world.clock.slept == []
    report = await load(world.services, model="tiny", decision=decision)
    assert (report.outcome, report.reason) == ("queued", "it is being removed")
    assert world.runtime.loads == 0


async def test_a_load_for_which_there_is_no_room_is_queued_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "MEMORY_WAIT_S", 0.0)
    registered(world)
    decision = booked(world, held=2 * ROOM)
    report = await load(world.services, model="tiny", decision=decision)
    why = "the memory that was to be released for it did not become free"
    assert (report.outcome, report.reason) == ("queued", why)
    assert states(world) == {"tiny": "queued"} and world.store.view()[2] == ()
    assert outcome_of(world, decision) == ("failed", why)
    assert events(world, "model.queued") == [("tiny", {"reason": why, "decision": decision})]


async def test_a_load_of_a_version_that_was_replaced_is_queued_again(world: World) -> None:
    registered(world)
    decision = booked(world)
    registered(world, version=2)
    report = await load(world.services, model="tiny", decision=decision)
    why = "a newer version was registered before this one was loaded"
    assert (report.outcome, report.reason) == ("queued", why)
    assert world.runtime.loads == 0


# --- what the runtime is asked --------------------------------------------------------------------


async def test_the_runtime_is_asked_with_everything_that_is_known(world: World) -> None:
    registered(world, "other")
    booked(world, "other", held=7)
    with_files(world)
    settings = {"tiny": {"max_num_seqs": 3}, "other": {"max_num_seqs": 9}}
    world.rule(model_settings=settings)
    decision = booked(world, held=5)
    await load(world.services, model="tiny", decision=decision)
    record = world.store.model("tiny")
    (request,) = world.runtime.requests
    assert (request.model, request.version, request.path) == ("tiny", 1, record.path)
    assert (request.reserve, request.devices) == ({CPU.id: 5}, (CPU,))
    assert request.operator_settings == {"max_num_seqs": 3}
    assert request.profile == record.profile
    assert request.deadline_s == load_bound_s(record, RuntimeName.RAY_SERVE)
    assert request.allow_remote_code is False
    assert events(world, "model.loading") == [
        ("tiny", {"runtime": "ray_serve", "devices": [CPU.label]})
    ]
    assert outcome_of(world, decision) == ("done", "")


async def test_the_policy_may_allow_code_of_every_model(world: World) -> None:
    with_files(world)
    world.rule(allow_remote_code=True)
    await load(world.services, model="tiny", decision=booked(world))
    assert world.runtime.requests[0].allow_remote_code is True


async def test_a_model_is_closed_and_owned_while_it_loads_and_its_time_is_noted(
    world: World,
) -> None:
    record = with_files(world)
    world.clock.advance(500.0)
    decision = booked(world)
    left_open = world.services.switchboard
    left_open.open("tiny", await _upstream(world), version=record.version)
    world.runtime.gate.clear()
    task = asyncio.create_task(load(world.services, model="tiny", decision=decision))
    await world.runtime.asked.wait()
    assert left_open.upstream("tiny") is None
    assert "tiny" in world.services.owners
    world.clock.advance(7.0)
    world.runtime.gate.set()
    report = await task
    assert report.details["load_s"] == pytest.approx(7.0, abs=0.01)
    assert deployment_of(world).load_s == pytest.approx(7.0, abs=0.01)
    ((_name, detail),) = events(world, "model.ready")
    assert detail["load_s"] == pytest.approx(7.0, abs=0.01)
    text = world.exposed()
    assert _sum(text, "modelium_load_duration_seconds_sum", "ready") == pytest.approx(7, abs=0.01)
    assert _sum(text, "modelium_load_phase_seconds_sum", "starting") == pytest.approx(7, abs=0.01)
    assert left_open.upstream("tiny") is not None and "tiny" not in world.services.owners


async def _upstream(world: World) -> Any:
    registered(world, "stale")
    ready(world, "stale", opened=False)
    return deployment_of(world, "stale").upstream


def _sum(text: str, metric: str, label: str) -> float:
    (line,) = [each for each in text.splitlines() if each.startswith(metric) and label in each]
    return float(line.rpartition(" ")[2])


# --- what can go wrong ----------------------------------------------------------------------------


async def test_a_load_without_deployment_is_refused(world: World) -> None:
    registered(world)
    with pytest.raises(ModeliumError, match="tiny has no deployment or profile; load it again"):
        await loading._load(world.services, "tiny")
    registered(world, "bare", profile=None)
    world.store.states.mark_analyzed("bare")
    booked(world, "bare")
    with pytest.raises(ModeliumError, match="bare has no deployment or profile; load it again"):
        await loading._load(world.services, "bare")


@pytest.mark.parametrize("what", ["missing", "changed", "unchecked", "touched"])
async def test_files_that_are_not_those_that_were_checked_are_not_loaded(
    world: World, what: str
) -> None:
    record = with_files(world)
    folder = Path(record.path)
    if what == "missing":
        shutil.rmtree(folder)
    elif what == "touched":
        (folder / "weights.bin").write_bytes(b"tiny")
    else:
        (folder / "weights.bin").write_bytes(b"other")
    if what == "unchecked":
        configured(world, "ingest", verify_at_load=False)
    decision = booked(world)
    if what in ("unchecked", "touched"):
        assert (await load(world.services, model="tiny", decision=decision)).outcome == "ready"
        return
    with pytest.raises(LoadFailed) as failed:
        await load(world.services, model="tiny", decision=decision)
    assert failed.value.kind is FailureKind.BAD_FILES
    assert str(failed.value) == (
        f"its folder is missing: put {folder} back, or drop the model again"
        if what == "missing"
        else f"the files in {folder} are not those that were checked when version 1 was registered "
        "(a file was changed, added or removed): put them back, or drop the model again"
    )
    assert world.runtime.loads == 0
    counted = None if what == "missing" else FailureKind.BAD_FILES
    assert world.store.model("tiny").setbacks.kind is counted


async def test_a_runtime_that_is_switched_off_meanwhile_loads_nothing(world: World) -> None:
    with_files(world)
    decision = booked(world)
    world.services = replace(world.services, runtimes={})
    with pytest.raises(Unavailable, match=r"^ray_serve is switched off in the configuration$"):
        await load(world.services, model="tiny", decision=decision)
    record = world.store.model("tiny")
    assert (record.state, record.failures) == (ModelState.FAILED, 1)


async def test_a_failed_load_says_so_everywhere(world: World) -> None:
    with_files(world)
    world.runtime.failure = LoadFailed("bad magic")
    world.clock.advance(50.0)
    world.runtime.gate.clear()
    decision = booked(world)
    task = asyncio.create_task(load(world.services, model="tiny", decision=decision))
    await world.runtime.asked.wait()
    waiting = asyncio.create_task(world.request())
    await world.idle()
    world.clock.advance(4.0)
    world.runtime.gate.set()
    with pytest.raises(LoadFailed, match="bad magic"):
        await task
    with pytest.raises(Unavailable, match=r"^bad magic$") as refused:
        await waiting
    assert refused.value.reason == "unknown"
    assert refused.value.retry_after_s == pytest.approx(FIRST_PAUSE_S, abs=0.1)
    assert outcome_of(world, decision) == ("failed", "bad magic")
    assert events(world, "model.failed") == [("tiny", {"version": 1, "reason": "bad magic"})]
    failed = _sum(world.exposed(), "modelium_load_duration_seconds_sum", "failed")
    assert failed == pytest.approx(4.0, abs=0.01)
    assert world.store.view()[2] == ()


async def test_a_failure_that_is_no_error_of_modelium_is_told_with_its_model(world: World) -> None:
    with_files(world)
    world.runtime.failure = KeyError()
    world.runtime.gate.clear()
    task = asyncio.create_task(load(world.services, model="tiny", decision=booked(world)))
    await world.runtime.asked.wait()
    waiting = asyncio.create_task(world.request())
    await world.idle()
    world.runtime.gate.set()
    with pytest.raises(KeyError):
        await task
    with pytest.raises(Unavailable, match=r"^tiny: KeyError$"):
        await waiting
    assert events(world, "model.failed") == [("tiny", {"version": 1, "reason": "KeyError"})]


async def test_a_load_that_ended_meanwhile_is_not_given_up(world: World) -> None:
    record = with_files(world)
    decision = booked(world)
    world.store.states.requeue("tiny", reason="taken back")
    before = world.store.revision()
    await loading._give_up(world.services, "tiny", decision, LoadFailed("late"), 0.0)
    assert (world.store.revision(), world.heard) == (before, [])
    assert outcome_of(world, decision) == ("accepted", "")
    assert world.store.model("tiny").reason == "taken back" and record.failures == 0


async def test_the_failed_load_of_a_new_version_returns_to_the_one_before(world: World) -> None:
    registered(world)
    world.store.lineage.prove("tiny", 1)
    with_files(world, version=2)
    world.runtime.failure = LoadFailed("bad magic")
    script = scripted(world)
    with pytest.raises(LoadFailed):
        await load(world.services, model="tiny", decision=booked(world))
    await background(world)
    assert world.store.model("tiny").version == 1
    assert script.stages() == [("analyze", "tiny")]


async def test_a_failure_of_the_machine_is_none_of_the_version(world: World) -> None:
    registered(world)
    world.store.lineage.prove("tiny", 1)
    with_files(world, version=2)
    world.runtime.failure = OSError("disk")
    with pytest.raises(OSError, match="disk"):
        await load(world.services, model="tiny", decision=booked(world))
    assert world.store.model("tiny").version == 2


async def test_what_a_load_takes_of_a_gpu_is_measured(world: World) -> None:
    gpu = CPU.model_copy(update={"kind": "gpu", "uuid": "gpu-0"})
    world.devices.devices = (gpu,)
    with_files(world)
    world.store.states.mark_analyzed("tiny")
    action = Load(
        model="tiny",
        runtime=RuntimeName.RAY_SERVE,
        devices=(gpu.id,),
        reserve={gpu.id: GIB},
        reason="",
    )
    decision = accepted(world, action)
    world.runtime.gate.clear()
    task = asyncio.create_task(load(world.services, model="tiny", decision=decision))
    await world.runtime.asked.wait()
    world.devices.devices = (gpu.model_copy(update={"free_bytes": gpu.free_bytes - 5}),)
    world.runtime.gate.set()
    await task
    assert [b.resident_bytes for b in world.store.view()[2]] == [5]
