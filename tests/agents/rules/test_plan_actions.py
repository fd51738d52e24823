"""The actions that a plan is made of: what each says, and what it does to the others."""

from __future__ import annotations

from typing import Any

import pytest

from agents.rules.placement import any_model, no_model
from agents.rules.plan_builder import Outcome
from agents.rules.sizing import Sizer
from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    EvictionCause,
    Footprint,
    Keep,
    Load,
    LoadSettings,
    Model,
    Plan,
    Priority,
    Queue,
    Reject,
    Removal,
    RuntimeName,
    RuntimeStatus,
    Setbacks,
    Traffic,
    Trigger,
    Unload,
)
from modelium.policy import RuntimeRules
from tests.agents.rules.building import builder
from tests.fakes.fleets import estimate, fleet, loaded, model, policy, profile

S = ModelState
V, RAY = RuntimeName.VLLM, RuntimeName.RAY_SERVE
NOTHING = Plan(author="rules", trigger=Trigger.SWEEP, revision=7)
FULL = "no device has room now; models in memory: none"


def test_a_plan_without_actions_names_its_question() -> None:
    asked = builder(fleet(), trigger=Trigger.DEMAND, about="a")
    expected = Plan(author="rules", trigger=Trigger.DEMAND, subject="a", revision=7)
    assert asked.plan() == expected
    assert builder(fleet()).plan() == NOTHING


def test_a_plans_reason_is_that_of_its_first_four_actions() -> None:
    some = builder(fleet())
    kept = [Keep(model=name, reason=f"why {name}") for name in "abcde"]
    for action in kept:
        some.keep(model(action.model), action.reason)
    said = "a: why a; b: why b; c: why c; d: why d"
    assert some.plan() == NOTHING.model_copy(update={"actions": tuple(kept), "reason": said})
    assert some.touched == set("abcde")
    some.reason = "said otherwise"
    assert some.plan().reason == "said otherwise"


@pytest.mark.parametrize(
    ("statuses", "rules", "may"),
    [
        ((RuntimeStatus(name=V, enabled=True, healthy=False),), RuntimeRules(), True),
        ((RuntimeStatus(name=V, enabled=False, healthy=True),), RuntimeRules(), False),
        ((RuntimeStatus(name=V, enabled=True, healthy=True),), RuntimeRules(enabled=False), False),
        ((RuntimeStatus(name=RAY, enabled=True, healthy=True),), RuntimeRules(), False),
    ],
)
def test_a_runtime_that_is_disabled_unloads_nothing(
    statuses: tuple[RuntimeStatus, ...], rules: RuntimeRules, may: bool
) -> None:
    by = policy(runtimes={V: rules, RAY: RuntimeRules()})
    some = builder(fleet(runtimes=statuses), by)
    assert some.may_unload(loaded("a", "n/g0")) is may
    assert some.may_unload(model("a")) is True


def test_a_model_idles_out_as_the_policy_says() -> None:
    some = builder(fleet())
    idle = [some.idled_out(loaded("a", "n/g0", idle_s=s)) for s in (3600, 3601)]
    assert idle == [False, True]


GOING = Removal(by="ann", at=1)
TWIN = loaded("a@2", "n/g1", version=2, twin_of="a")
TAKES_OVER = "version 2 of it is ready, and takes over"
RISKY = profile(10, needs_remote_code=True)
APPROVE = "needs an operator's approval for remote-code: run `modelium approve a`"


@pytest.mark.parametrize(
    ("subject", "others", "runnable", "said"),
    [
        (model("a"), (), True, ()),
        (model("a", removal=GOING), (), False, ()),
        (model("a"), (TWIN,), False, (Keep(model="a", reason=TAKES_OVER),)),
        (model("a"), (TWIN.model_copy(update={"deployment": None}),), True, ()),
        (
            model("a", profile=None),
            (),
            False,
            (Keep(model="a", reason="not analyzed yet"),),
        ),
        (model("a", profile=RISKY), (), False, (Reject(model="a", reason=APPROVE),)),
        (
            loaded("a", "n/g0", profile=RISKY),
            (),
            False,
            (Keep(model="a", reason=APPROVE),),
        ),
    ],
)
def test_a_model_that_cannot_run_is_kept_or_rejected_unless_the_step_is_quiet(
    subject: Model, others: tuple[Model, ...], runnable: bool, said: tuple[Any, ...]
) -> None:
    world = fleet(subject, *others)
    loud, quiet = builder(world), builder(world)
    assert loud.is_runnable(subject) is runnable
    assert loud.plan().actions == said
    assert quiet.is_runnable(subject, quiet=True) is runnable
    assert quiet.plan().actions == ()


def test_a_model_is_queued_with_its_class_where_it_may_wait() -> None:
    some = builder(fleet(), policy(high_priority_teams=frozenset({"prod"})))
    some.queue(model("a", team="prod"))
    some.queue(model("b", state=S.SLEEPING))
    some.queue(model("c", removal=GOING))
    assert some.plan().actions == (
        Queue(model="a", priority=Priority.MEDIUM, reason=FULL),
        Keep(model="b", reason=FULL),
        Keep(model="c", reason=FULL),
    )


def test_an_unload_frees_its_memory_at_once() -> None:
    old = loaded("old", "n/g0", gib=60)
    some = builder(fleet(old, gpus=1), policy(max_gpu_memory_utilization=1.0))
    some.unload(old, "why", cause=EvictionCause.IDLE)
    some.unload(model("x"), "so", cause=EvictionCause.REVIEW, sleep=True, requeue=True)
    assert some.memory.room("n/g0") == 80 * GIB
    assert some.plan().actions == (
        Unload(model="old", cause=EvictionCause.IDLE, reason="why"),
        Unload(model="x", cause=EvictionCause.REVIEW, reason="so", sleep=True, requeue=True),
    )


SPLIT = profile(100, tensor_parallel_degrees=(1, 2))


def test_a_load_says_where_with_how_much_and_for_whom() -> None:
    by = policy(high_priority_teams=frozenset({"prod"}))
    some = builder(fleet(model("a", 12.5), model("b", profile=SPLIT), gpus=4), by)
    one = model("a", 12.5, team="prod")
    assert some.load(one, may_evict=no_model, why="wanted") is Outcome.PLACED
    assert some.load(model("b", profile=SPLIT), may_evict=no_model) is Outcome.PLACED
    assert some.plan().actions == (
        Load(
            model="a",
            runtime=V,
            devices=("n/g0",),
            reserve={"n/g0": int(12.5 * GIB)},
            priority=Priority.MEDIUM,
            reason="wanted; vllm on n/g0, 12.50 GiB reserved",
        ),
        Load(
            model="b",
            runtime=V,
            devices=("n/g0", "n/g1"),
            settings=LoadSettings(tensor_parallel_size=2),
            reserve=dict.fromkeys(("n/g0", "n/g1"), 50 * GIB),
            reason="vllm on n/g0, n/g1, 50.00 GiB per device",
        ),
    )


def test_a_load_names_its_victims_and_each_victim_the_load() -> None:
    olds = [loaded(name, "n/g0", gib=30, idle_s=900.4) for name in ("x", "y")]
    some = builder(fleet(model("a", 60), *olds, gpus=1))
    assert some.load(model("a", 60), may_evict=any_model) is Outcome.PLACED
    *unloads, load = some.plan().actions
    assert load.reason == "vllm on n/g0, 60.00 GiB reserved; evicts x, y"
    assert unloads == [
        Unload(
            model=name,
            cause=EvictionCause.SPACE,
            reason="makes room for a: idle for 900 s, and cheapest to evict on n/g0",
        )
        for name in ("x", "y")
    ]


def test_a_load_with_smaller_settings_says_so() -> None:
    long = profile(40, kv_bytes_per_token=1 << 20, context_length=65_536)
    some = builder(fleet(model("a", profile=long), loaded("x", "n/g0", gib=40), gpus=1))
    assert some.load(model("a", profile=long), may_evict=any_model) is Outcome.PLACED
    assert some.plan().loads[0].reason == (
        "vllm on n/g0, 72.00 GiB reserved; evicts x; with max_model_len 32768 instead of the "
        "model’s own"
    )


def failed(*runtimes: RuntimeName) -> Model:
    return model("a", setbacks=Setbacks(runtimes=dict.fromkeys(runtimes, 3)))


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        (failed(V), "ray_serve on n/g0, 10.00 GiB reserved; not where it failed before (times): vllm (3)"),
        (failed(V, RAY), "vllm on n/g0, 10.00 GiB reserved"),
        (failed(RAY), "vllm on n/g0, 10.00 GiB reserved; not where it failed before (times): ray_serve (3)"),
        (
            failed(RuntimeName.TRITON, RAY),
            "vllm on n/g0, 10.00 GiB reserved; not where it failed before (times): ray_serve (3), triton (3)",
        ),
    ],
)  # fmt: skip
def test_a_load_says_which_runtimes_it_avoids(subject: Model, reason: str) -> None:
    some = builder(fleet(subject))
    some.load(subject, may_evict=no_model)
    (load,) = some.plan().actions
    assert load.reason == reason


@pytest.mark.parametrize(
    ("can_sleep", "victim", "subject", "expected"),
    [
        (True, {}, {}, (True, False)),
        (False, {}, {}, (False, False)),
        (False, {"traffic": Traffic()}, {"priority": Priority.HIGH}, (False, True)),
        (False, {"traffic": Traffic()}, {}, (False, False)),
        (False, {}, {"priority": Priority.HIGH}, (False, False)),
        (
            False,
            {"traffic": Traffic(), "priority": Priority.HIGH},
            {"priority": Priority.HIGH},
            (False, False),
        ),
        (False, {"traffic": Traffic(), "priority": Priority.HIGH}, {}, (False, False)),
    ],
)
def test_a_victim_sleeps_where_its_runtime_can_and_is_queued_again_where_it_is_outranked(
    can_sleep: bool, victim: dict[str, Any], subject: dict[str, Any], expected: tuple[bool, bool]
) -> None:
    status = RuntimeStatus(name=V, enabled=True, healthy=True, can_sleep=can_sleep)
    new = model("a", 60, **subject)
    some = builder(fleet(new, loaded("x", "n/g0", gib=60, **victim), gpus=1, runtimes=(status,)))
    some.load(new, may_evict=any_model)
    (unload,) = some.plan().unloads
    assert (unload.sleep, unload.requeue) == expected


def test_a_load_that_finds_no_room_adds_nothing() -> None:
    some = builder(fleet(model("a", 60), loaded("x", "n/g0", gib=60), gpus=1))
    assert some.load(model("a", 60), may_evict=no_model) is Outcome.NO_ROOM
    assert some.plan().actions == ()


def test_a_model_that_is_too_large_for_every_device_is_rejected() -> None:
    some = builder(fleet(gpus=1))
    assert some.load(model("a", 81), may_evict=any_model) is Outcome.REJECTED
    (answer,) = some.plan().actions
    assert answer == Reject(
        model="a",
        reason="too large, even alone and with the smallest settings: the largest device offers "
        "72.0 GiB (90% of its memory, max_gpu_memory_utilization)",
    )
    lost = fleet(gpus=1).devices[0].model_copy(update={"healthy": False})
    hopeful = builder(fleet(devices=(lost,)))
    assert hopeful.load(model("a", 81), may_evict=any_model) is Outcome.NO_ROOM
    assert hopeful.plan().actions == ()


def test_memory_that_is_set_aside_is_used_by_no_other_load() -> None:
    some = builder(fleet(gpus=1))
    some.set_aside(model("better", 50))
    some.set_aside(model("large", 60))
    assert some.load(model("a", 22), may_evict=no_model) is Outcome.PLACED
    assert some.load(model("b", 1), may_evict=no_model) is Outcome.NO_ROOM
    assert [action.model for action in some.plan().actions] == ["a"]


def test_a_waking_model_gets_no_idle_memory_and_a_fresh_load_does() -> None:
    def roomy(given: Any, **asked: Any) -> Footprint:
        found = estimate(given, **asked)
        return found.model_copy(update={"kv": GIB, "kv_least": GIB})

    def lent(subject: Model) -> int:
        some = builder(fleet(subject), sizer=Sizer(estimate=roomy))
        some.load(subject, may_evict=no_model)
        (load,) = some.plan().loads
        return load.settings.extra_kv_bytes

    assert lent(model("a")) > 0
    assert lent(loaded("a", "n/g0", state=S.SLEEPING)) == 0


def test_a_split_model_wakes_rank_by_rank_on_its_own_devices() -> None:
    files = profile(40, tensor_parallel_degrees=(1, 2))
    subject = loaded("a", "n/g1", "n/g0", profile=files, state=S.SLEEPING)
    awake = model("a", profile=files, deployment=subject.deployment)
    for one, devices in ((subject, ("n/g1", "n/g0")), (awake, ("n/g0",))):
        some = builder(fleet(one))
        some.load(one, may_evict=no_model)
        assert some.plan().loads[0].devices == devices
