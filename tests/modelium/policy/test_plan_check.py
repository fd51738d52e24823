from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from modelium.lifecycle import TRANSITIONS, ModelState
from modelium.models import (
    Fleet,
    Keep,
    Load,
    Plan,
    Queue,
    Reject,
    Removal,
    RuntimeName,
    Trigger,
    Unload,
)
from modelium.policy import Policy, validate
from modelium.policy.memory_budget import available_bytes
from tests.fakes.fleets import NOW, fleet, loaded, model, policy
from tests.fakes.random_fleets import fleets, plans, policies
from tests.modelium.policy.plans import broken, load, messages, unload

pytestmark = pytest.mark.slow


def test_valid_plan_has_no_violations() -> None:
    world = fleet(model("new", 30), loaded("old", "n/g0", gib=70), loaded("b", "n/g1", gib=60))
    assert broken(world, unload("old"), load("new", gib=30)) == []


def test_all_violations_are_reported() -> None:
    world = fleet(model("a"), loaded("pin", "n/g0", pinned=True))
    plan = (unload("pin"), load("a", "n/g9"), Keep(model="ghost", reason="r"))
    assert broken(world, *plan) == ["pinned", "unknown-device", "unknown-model"]


def test_memory_is_available_only_after_the_unload_that_frees_it() -> None:
    world = fleet(model("new", 30), loaded("old", "n/g0", gib=70), gpus=1)
    assert broken(world, load("new", gib=30), unload("old")) == ["does-not-fit"]


def test_two_loads_share_what_is_left() -> None:
    world = fleet(model("a", 40), model("b", 40), gpus=1)
    assert broken(world, load("a", gib=40), load("b", gib=40)) == ["does-not-fit"]


def test_cap_limits_a_load_on_an_empty_device() -> None:
    assert broken(fleet(model("a", 75)), load("a", gib=75)) == ["over-cap"]


def test_memory_of_foreign_processes_is_not_available() -> None:
    world = fleet(model("a", 30), gpus=1, foreign_gib=60)
    assert broken(world, load("a", gib=30)) == ["does-not-fit"]


def test_a_reservation_must_hold_the_weights() -> None:
    assert broken(fleet(model("a", 30)), load("a", gib=1)) == ["reserve"]


def test_nothing_is_loaded_or_unloaded_while_orchestration_is_off() -> None:
    by = policy(enabled=False)
    world = fleet(model("a"), loaded("b", "n/g0", idle_s=9999))
    assert broken(world, unload("b"), load("a", "n/g1"), by=by) == ["disabled", "disabled"]


def test_two_actions_for_one_model_are_one_violation() -> None:
    world = fleet(model("a"))
    twice = (load("a"), Queue(model="a", reason="r"))
    assert broken(world, *twice) == ["two-actions"]


def test_a_running_model_is_neither_queued_nor_rejected() -> None:
    world = fleet(loaded("a", "n/g0"))
    assert broken(world, Queue(model="a", reason="r")) == ["illegal-state"]
    assert broken(world, Reject(model="a", reason="r")) == ["illegal-state"]


def test_a_model_that_is_being_removed_is_not_queued() -> None:
    removal = Removal(by="ada", at=NOW)
    world = fleet(model("a", removal=removal))
    assert messages(world, Queue(model="a", reason="r")) == [
        "a: it is being removed; ada asked for it"
    ]


def test_memory_messages_state_the_numbers() -> None:
    world = fleet(model("a", 30), model("b", 75), loaded("old", "n/g0", gib=60), gpus=1)
    assert messages(world, load("a", gib=20), load("b", gib=75)) == [
        "a: reserves 20.00 GiB on n/g0; its weights alone take 30.00 GiB",
        "a: reserves 20.00 GiB on n/g0; 12.00 GiB are available after the plan's earlier actions",
        "b: reserves 75.00 GiB on n/g0; max_gpu_memory_utilization 0.9 allows 72.00 GiB",
    ]


# --- properties ---------------------------------------------------------------------------------

S = ModelState
TARGETS = {Load: S.LOADING, Unload: S.UNLOADING, Queue: S.QUEUED, Reject: S.FAILED}
RELAXED = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # Shrinking a fleet takes minutes, longer than a test may take.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


def check_accepted(plan: Plan, fleet: Fleet, policy: Policy) -> int:
    """Assert that ``plan`` overbooks nothing, unloads no pinned model, and follows the lifecycle.

    Returns how many loads it holds.
    """
    cap = policy.max_gpu_memory_utilization
    reserved = dict.fromkeys((d.id for d in fleet.devices), 0)
    gone: set[str] = set()
    models = fleet.models_by_name
    loads = 0
    for action in plan.actions:
        model = models[action.model]
        target = TARGETS.get(type(action))
        if target is S.UNLOADING and isinstance(action, Unload) and action.sleep:
            target = S.SLEEPING
        if target is not None and model.state is not target:
            assert target in TRANSITIONS[model.state]
        if isinstance(action, Unload):
            assert not model.pinned
            assert model.name not in policy.always_loaded
            gone.add(model.name)
        elif isinstance(action, Load):
            loads += 1
            for device_id, size in action.reserve.items():
                reserved[device_id] += size
                device = fleet.devices_by_id[device_id]
                bookings = fleet.bookings_by_device.get(device_id, ())
                staying = [b for b in bookings if b.model not in gone]
                booked = sum(b.bytes for b in staying) + reserved[device_id]
                assert booked <= device.total_bytes * cap + 1
                # Once all booked memory is resident, other processes included:
                free = device.free_bytes - reserved[device_id]
                free -= sum(max(0, b.bytes - b.resident_bytes) for b in staying)
                free += sum(b.resident_bytes for b in bookings if b.model in gone)
                assert free >= device.total_bytes * (1 - cap) - 1
    return loads


@st.composite
def fleets_with_candidates(draw: st.DrawFn) -> Fleet:
    """Any fleet, and one to three models more that could be loaded at once."""
    some = draw(fleets())
    sizes = draw(st.lists(st.sampled_from([1.0, 8.0, 20.0, 35.0]), min_size=1, max_size=3))
    candidates = (model(f"candidate-{i}", gib) for i, gib in enumerate(sizes))
    return Fleet(**{**dict(some), "models": (*some.models, *candidates)})


MEMORY_RULES = {"does-not-fit", "over-cap", "reserve"}


@st.composite
def likely_plans(draw: st.DrawFn, fleet: Fleet, policy: Policy) -> Plan:
    """Unloads that are allowed, then loads that can only break rules about memory."""
    names = [m.name for m in fleet.models if not broken(fleet, unload(m.name), by=policy)]
    gone = draw(st.lists(st.sampled_from(names), max_size=2, unique=True)) if names else []
    loads: list[Load] = []
    for one in fleet.models:
        if one.profile is None or one.name in gone:
            continue
        held = one.deployment
        degree = draw(st.sampled_from(one.profile.tensor_parallel_degrees))
        devices = draw(st.permutations([d.id for d in fleet.devices]))[:degree]
        devices = list(held.devices) if held else devices
        least = one.profile.weight_bytes // len(devices)
        room = min(
            available_bytes(
                fleet.devices_by_id[device],
                fleet.bookings_by_device.get(device, ()),
                cap=policy.max_gpu_memory_utilization,
                after=gone,
            )
            for device in devices
        )
        size = draw(st.sampled_from([least, max(least, room), room + 2, (least + room) // 2]))
        for runtime in (RuntimeName.VLLM, RuntimeName.RAY_SERVE):
            action = load(
                one.name,
                *devices,
                runtime=runtime,
                reserve=dict.fromkeys(devices, max(1, size)),
            )
            rules = broken(fleet, action, by=policy, trigger=Trigger.OPERATOR)
            if set(rules) <= MEMORY_RULES:
                loads.append(action)
                break
    return Plan(
        author="llm",
        trigger=Trigger.OPERATOR,
        actions=(*map(unload, gone), *draw(st.permutations(loads))[:3]),
    )


@pytest.mark.hypothesis
def test_accepted_plans_do_no_harm() -> None:
    examples = with_load = 0

    @RELAXED
    @given(data=st.data(), fleet=fleets_with_candidates(), policy=policies())
    def check(data: st.DataObject, fleet: Fleet, policy: Policy) -> None:
        nonlocal examples, with_load
        likely = data.draw(likely_plans(fleet, policy))
        loads = [a for a in likely.actions if isinstance(a, Load)]
        unloads = tuple(a for a in likely.actions if isinstance(a, Unload))
        any_plan = data.draw(plans(fleet))
        tried = [likely, any_plan]
        # Actions that are allowed one by one are seldom drawn together: try each alone as well.
        tried += [likely.model_copy(update={"actions": (*unloads, load)}) for load in loads]
        tried += [any_plan.model_copy(update={"actions": (a,)}) for a in any_plan.actions]
        accepted = [plan for plan in tried if not validate(plan, fleet, policy, now=NOW)]
        examples += 1
        with_load += sum(check_accepted(plan, fleet, policy) for plan in accepted) > 0

    check()
    assert with_load >= examples / 4, f"{with_load} of {examples} examples hold an accepted load"
