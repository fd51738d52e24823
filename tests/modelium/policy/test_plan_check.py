from __future__ import annotations

from typing import Any

import pytest

from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Action,
    Deployment,
    Fleet,
    Keep,
    Load,
    LoadSettings,
    Model,
    Plan,
    Priority,
    Queue,
    Reject,
    RuntimeName,
    RuntimeStatus,
    Traffic,
    Trigger,
    Unload,
)
from modelium.policy import Policy, RuntimeRules, validate
from modelium.policy.eligibility import should_load, should_unload
from tests.fakes.fleets import NOW, fleet, loaded, model, policy, profile


def load(name: str, *devices: str, gib: float = 10, **given: Any) -> Load:
    devices = devices or ("n/g0",)
    fields: dict[str, Any] = {
        "runtime": RuntimeName.VLLM,
        "settings": LoadSettings(tensor_parallel_size=len(devices)),
        "reserve": dict.fromkeys(devices, int(gib * GIB)),
        "reason": "because",
    }
    return Load(model=name, devices=devices, **{**fields, **given})


def broken(
    fleet: Fleet,
    *actions: Action,
    by: Policy | None = None,
    trigger: Trigger = Trigger.DEMAND,
    subject: str | None = None,
) -> list[str]:
    plan = Plan(author="llm", trigger=trigger, subject=subject, actions=actions)
    return [v.rule for v in validate(plan, fleet, by or policy(), now=NOW)]


def unload(name: str, **given: Any) -> Unload:
    return Unload(model=name, reason="because", **given)


def test_a_sound_plan_has_no_violations() -> None:
    world = fleet(model("new", 30), loaded("old", "n/g0", gib=70), loaded("b", "n/g1", gib=60))
    assert broken(world, unload("old"), load("new", gib=30)) == []


def test_all_violations_are_named_not_the_first() -> None:
    world = fleet(model("a"), loaded("pin", "n/g0", pinned=True))
    plan = (unload("pin"), load("a", "n/g9"), Keep(model="ghost", reason="r"))
    assert broken(world, *plan) == ["pinned", "unknown-device", "unknown-model"]


def test_memory_counts_only_after_the_unload_that_frees_it() -> None:
    world = fleet(model("new", 30), loaded("old", "n/g0", gib=70), gpus=1)
    assert broken(world, load("new", gib=30), unload("old")) == ["does-not-fit"]


def test_two_loads_share_what_is_left() -> None:
    world = fleet(model("a", 40), model("b", 40), gpus=1)
    assert broken(world, load("a", gib=40), load("b", gib=40)) == ["does-not-fit"]


def test_the_cap_bounds_one_load_even_on_an_empty_device() -> None:
    assert broken(fleet(model("a", 75)), load("a", gib=75)) == ["over-cap"]


def test_memory_of_foreign_processes_is_not_promised() -> None:
    world = fleet(model("a", 30), gpus=1, foreign_gib=60)
    assert broken(world, load("a", gib=30)) == ["does-not-fit"]


def test_a_reservation_must_hold_the_weights() -> None:
    assert broken(fleet(model("a", 30)), load("a", gib=1)) == ["reserve"]


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"runtime": RuntimeName.TRITON}, "unknown-runtime"),
        ({"settings": LoadSettings(tensor_parallel_size=2)}, "tensor-parallel"),
        ({"settings": LoadSettings(dtype="int3")}, "setting"),
        ({"settings": LoadSettings(kv_dtype="nonsense")}, "setting"),
        ({"settings": LoadSettings(max_model_len=8192)}, "setting"),
        ({"settings": LoadSettings(max_num_seqs=10**6)}, "setting"),
        ({"settings": LoadSettings(kv_cache_bytes=100 * GIB)}, "setting"),
        ({"settings": LoadSettings(quantization="awq")}, "setting"),
        ({"settings": LoadSettings(extra={"trust-remote-code": True})}, "setting"),
        ({"priority": Priority.HIGH}, "priority"),
        ({"reserve": {}}, "reserve"),
        ({"reserve": {"n/g0": -5}}, "reserve"),
    ],
)
def test_a_load_may_not(given: dict[str, Any], rule: str) -> None:
    world = fleet(model("a", priority_ceiling=Priority.MEDIUM))
    assert rule in broken(world, load("a", **given))


def test_the_operators_own_default_settings_are_on_the_allow_list() -> None:
    rules = RuntimeRules(default_settings={"seed": 1}, allowed_extra=frozenset({"swap-space"}))
    by = policy(runtimes={RuntimeName.VLLM: rules})
    fine = load("a", settings=LoadSettings(extra={"seed": 1, "swap-space": 4}))
    wrong = load("a", settings=LoadSettings(extra={"seed": 2}))
    assert broken(fleet(model("a")), fine, by=by) == []
    assert broken(fleet(model("a")), wrong, by=by) == ["setting"]


def test_tensor_parallel_wants_like_devices_of_one_node_each_once() -> None:
    split = model("a", 20, profile=profile(20, tensor_parallel_degrees=(1, 2)))
    world = fleet(split)
    odd = world.devices[1].model_copy(update={"name": "A100"})
    assert broken(world, load("a", "n/g0", "n/g1", gib=10)) == []
    assert "devices" in broken(world, load("a", "n/g0", "n/g0", gib=10))
    mixed = world.model_copy(update={"devices": (world.devices[0], odd)})
    mixed = Fleet.model_validate(mixed.model_dump())
    assert broken(mixed, load("a", "n/g0", "n/g1", gib=10)) == ["devices"]


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"pinned": True}, "pinned"),
        ({"traffic": Traffic(in_flight=1)}, "in-flight"),
        ({"traffic": Traffic(pending=1)}, "in-flight"),
        ({"state": ModelState.UNLOADED, "deployment": None}, "illegal-state"),
        ({"state": ModelState.DRAINING}, "illegal-state"),
    ],
)
def test_an_unload_may_not_touch(given: dict[str, Any], rule: str) -> None:
    assert broken(fleet(loaded("a", "n/g0", **given)), unload("a")) == [rule]


def young(name: str, **given: Any) -> Model:
    return loaded(
        name,
        "n/g0",
        deployment=Deployment(
            model=name,
            version=1,
            runtime=RuntimeName.VLLM,
            devices=("n/g0",),
            settings=LoadSettings(),
            started_at=NOW - 40,
            ready_at=NOW - 10,
        ),
        **given,
    )


def test_a_model_stays_for_its_minimum_residency() -> None:
    assert broken(fleet(young("a")), unload("a")) == ["too-young"]


def test_the_operator_may_cut_a_stay_short_but_not_pass_a_pin() -> None:
    asked = {"trigger": Trigger.OPERATOR, "subject": "a"}
    busy = young("a", traffic=Traffic(in_flight=1))
    assert broken(fleet(busy), unload("a"), **asked) == []  # type: ignore[arg-type]
    pinned = young("a", pinned=True)
    assert broken(fleet(pinned), unload("a"), **asked) == ["pinned"]  # type: ignore[arg-type]


def test_always_loaded_is_a_pin() -> None:
    by = policy(always_loaded=frozenset({"a"}))
    assert broken(fleet(loaded("a", "n/g0")), unload("a"), by=by) == ["pinned"]


def test_without_swapping_only_what_idled_out_leaves() -> None:
    by = policy(enable_model_swapping=False)
    assert broken(fleet(loaded("a", "n/g0")), unload("a"), by=by) == ["swap-disabled"]
    assert broken(fleet(loaded("a", "n/g0", idle_s=4000)), unload("a"), by=by) == []


def test_pressure_on_a_device_lets_models_leave_without_swapping() -> None:
    world = fleet(loaded("a", "n/g0", gib=60), foreign_gib=15)
    by = policy(enable_model_swapping=False)
    assert broken(world, unload("a"), by=by) == []


def test_sleep_needs_an_engine_that_can() -> None:
    assert broken(fleet(loaded("a", "n/g0")), unload("a", sleep=True)) == ["sleep"]
    able = (RuntimeStatus(name=RuntimeName.VLLM, enabled=True, healthy=True, can_sleep=True),)
    assert broken(fleet(loaded("a", "n/g0"), runtimes=able), unload("a", sleep=True)) == []


def test_a_sleeper_wakes_only_where_it_sleeps() -> None:
    world = fleet(loaded("a", "n/g0", state=ModelState.SLEEPING))
    assert broken(world, load("a", "n/g0")) == []
    assert broken(world, load("a", "n/g1")) == ["asleep-elsewhere"]


def test_back_off_binds_all_but_the_operator() -> None:
    world = fleet(model("a", retry_at=NOW + 60, failures=2))
    assert broken(world, load("a")) == ["backing-off"]
    assert broken(world, load("a"), trigger=Trigger.OPERATOR, subject="a") == []


def test_its_folder_does_not_bring_an_evicted_model_back() -> None:
    world = fleet(model("a", state=ModelState.UNLOADED, evicted_at=NOW - 900))
    assert broken(world, load("a"), trigger=Trigger.INGEST) == ["evicted"]
    assert broken(world, load("a"), trigger=Trigger.DEMAND) == []


def test_the_sweep_waits_for_the_cooldown() -> None:
    world = fleet(model("a", state=ModelState.UNLOADED, evicted_at=NOW - 5))
    assert broken(world, load("a"), trigger=Trigger.SWEEP) == ["cooldown"]


@pytest.mark.parametrize(
    ("needs", "approval"),
    [({"needs_remote_code": True}, "remote-code"), ({"details": {"pickle": True}}, "pickle")],
)
def test_what_runs_code_needs_an_approval(needs: dict[str, Any], approval: str) -> None:
    bare = model("a", profile=profile(10, **needs))
    assert broken(fleet(bare), load("a")) == ["needs-approval"]
    approved = bare.model_copy(update={"approvals": frozenset({approval})})
    assert broken(fleet(approved), load("a")) == []


def test_nothing_is_acted_on_while_orchestration_is_off() -> None:
    by = policy(enabled=False)
    world = fleet(model("a"), loaded("b", "n/g0", idle_s=9999))
    assert broken(world, unload("b"), load("a", "n/g1"), by=by) == ["disabled", "disabled"]


def test_a_disabled_or_silent_runtime_gets_no_load() -> None:
    off = (RuntimeStatus(name=RuntimeName.VLLM, enabled=False, healthy=True),)
    silent = (RuntimeStatus(name=RuntimeName.VLLM, enabled=True, healthy=False),)
    assert broken(fleet(model("a"), runtimes=off), load("a")) == ["runtime-disabled"]
    assert broken(fleet(model("a"), runtimes=silent), load("a")) == ["runtime-unavailable"]


def test_two_actions_on_one_model_are_one_fault() -> None:
    world = fleet(model("a"))
    twice = (load("a"), Queue(model="a", reason="r"))
    assert broken(world, *twice) == ["two-actions"]


def test_a_running_model_is_neither_queued_nor_rejected() -> None:
    world = fleet(loaded("a", "n/g0"))
    assert broken(world, Queue(model="a", reason="r")) == ["illegal-state"]
    assert broken(world, Reject(model="a", reason="r")) == ["illegal-state"]


def test_messages_say_what_is_allowed() -> None:
    world = fleet(model("a"))
    plan = Plan(author="llm", trigger=Trigger.DEMAND, actions=(load("a", "n/g7"),))
    (violation,) = validate(plan, world, policy(), now=NOW)
    assert (violation.subject, "n/g0, n/g1" in violation.message) == ("a", True)


@pytest.mark.parametrize(
    ("idle_s", "qps", "pinned", "expected"),
    [
        (3601, 0.0, False, True),
        (3600, 0.0, False, False),
        (3601, 0.1, False, False),
        (3601, 0.0, True, False),
    ],
)
def test_should_unload_is_the_seeds(
    idle_s: float, qps: float, pinned: bool, expected: bool
) -> None:
    one = loaded("a", "n/g0", traffic=Traffic(last_request_at=NOW - idle_s, qps_last_hour=qps))
    by = policy(always_loaded=frozenset({"a"} if pinned else set()))
    assert should_unload(one, by, now=NOW) is expected


def test_should_load_is_the_seeds() -> None:
    one = model("a", traffic=Traffic(pending=1))
    assert should_load(one, policy())
    assert not should_load(one, policy(pending_requests_threshold=1))
