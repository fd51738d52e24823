from __future__ import annotations

from typing import Any

import pytest

from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Fleet,
    LoadSettings,
    Plan,
    Priority,
    RuntimeName,
    RuntimeStatus,
    Trigger,
)
from modelium.policy import RuntimeRules, validate
from tests.fakes.fleets import NOW, fleet, loaded, model, policy, profile
from tests.modelium.policy.plans import broken, load, messages


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
def test_load_breaks_a_rule(given: dict[str, Any], rule: str) -> None:
    world = fleet(model("a", priority_ceiling=Priority.MEDIUM))
    assert rule in broken(world, load("a", **given))


def test_operators_default_settings_are_allowed() -> None:
    rules = RuntimeRules(default_settings={"seed": 1}, allowed_extra=frozenset({"swap-space"}))
    by = policy(runtimes={RuntimeName.VLLM: rules})
    fine = load("a", settings=LoadSettings(extra={"seed": 1, "swap-space": 4}))
    wrong = load("a", settings=LoadSettings(extra={"seed": 2}))
    assert broken(fleet(model("a")), fine, by=by) == []
    assert broken(fleet(model("a")), wrong, by=by) == ["setting"]


def test_tensor_parallelism_needs_different_identical_devices() -> None:
    split = model("a", 20, profile=profile(20, tensor_parallel_degrees=(1, 2)))
    world = fleet(split)
    odd = world.devices[1].model_copy(update={"name": "A100"})
    assert broken(world, load("a", "n/g0", "n/g1", gib=10)) == []
    assert "devices" in broken(world, load("a", "n/g0", "n/g0", gib=10))
    mixed = world.model_copy(update={"devices": (world.devices[0], odd)})
    mixed = Fleet.model_validate(mixed.model_dump())
    assert broken(mixed, load("a", "n/g0", "n/g1", gib=10)) == ["devices"]


def test_sleeping_model_wakes_only_where_it_sleeps() -> None:
    world = fleet(loaded("a", "n/g0", state=ModelState.SLEEPING))
    assert broken(world, load("a", "n/g0")) == []
    assert broken(world, load("a", "n/g1")) == ["asleep-elsewhere"]


def test_back_off_holds_for_all_but_the_operator() -> None:
    world = fleet(model("a", retry_at=NOW + 60, failures=2))
    assert broken(world, load("a")) == ["backing-off"]
    assert broken(world, load("a"), trigger=Trigger.OPERATOR, subject="a") == []


def test_ingest_does_not_reload_an_evicted_model() -> None:
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
def test_code_and_pickles_need_an_approval(needs: dict[str, Any], approval: str) -> None:
    bare = model("a", profile=profile(10, **needs))
    assert broken(fleet(bare), load("a")) == ["needs-approval"]
    approved = bare.model_copy(update={"approvals": frozenset({approval})})
    assert broken(fleet(approved), load("a")) == []


@pytest.mark.parametrize(
    ("needs", "allowed"),
    [
        ({"needs_remote_code": True}, {"allow_remote_code": True}),
        ({"details": {"pickle": True}}, {"allow_pickle": True}),
    ],
)
def test_what_the_configuration_allows_needs_no_approval(
    needs: dict[str, Any], allowed: dict[str, Any]
) -> None:
    world = fleet(model("a", profile=profile(10, **needs)))
    assert broken(world, load("a"), by=policy(**allowed)) == []


def test_a_load_waits_for_the_version_beside_it() -> None:
    idle = model("b", twin_of="a", version=2)
    assert broken(fleet(model("a"), idle), load("a")) == []
    busy = loaded("b", "n/g1", twin_of="a")
    assert broken(fleet(model("a"), busy), load("a")) == ["switching"]


def test_a_reserve_holds_the_weights_if_their_size_is_exact() -> None:
    world = fleet(model("a", 30))
    assert broken(world, load("a", gib=30)) == []
    assert broken(world, load("a", gib=29.9)) != []
    guessed = fleet(model("a", profile=profile(30, exact=False)))
    assert broken(guessed, load("a", gib=1)) == []


def test_disabled_or_unhealthy_runtime_gets_no_load() -> None:
    off = (RuntimeStatus(name=RuntimeName.VLLM, enabled=False, healthy=True),)
    silent = (RuntimeStatus(name=RuntimeName.VLLM, enabled=True, healthy=False),)
    assert broken(fleet(model("a"), runtimes=off), load("a")) == ["runtime-disabled"]
    assert broken(fleet(model("a"), runtimes=silent), load("a")) == ["runtime-unavailable"]


def test_messages_say_what_is_allowed() -> None:
    world = fleet(model("a"))
    plan = Plan(author="llm", trigger=Trigger.DEMAND, actions=(load("a", "n/g7"),))
    (violation,) = validate(plan, world, policy(), now=NOW)
    assert (violation.subject, "n/g0, n/g1" in violation.message) == ("a", True)


def test_messages_state_the_numbers() -> None:
    one = model("a", state=ModelState.UNLOADED, evicted_at=NOW - 5, retry_at=NOW + 60, failures=2)
    assert messages(fleet(one), load("a", priority=Priority.LOW)) == [
        "a: its load failed 2 times; the next attempt is due in 60 s, and an operator may load it "
        "at once",
        "a: was evicted 5 s ago; reload_cooldown_seconds is 30, except for a request or an operator",
    ]


def test_cards_of_one_name_that_differ_by_a_mebibyte_are_used_together() -> None:
    splits = profile(20, tensor_parallel_degrees=(1, 2))
    world = fleet(model("a", 20, profile=splits), gpus=2)
    first, second = world.devices
    action = load("a", "n/g0", "n/g1", gib=10)

    def beside(**other: object) -> Fleet:
        changed = second.model_copy(update=other)
        return Fleet.model_validate(
            world.model_copy(update={"devices": (first, changed)}).model_dump()
        )

    assert broken(beside(total_bytes=second.total_bytes - 2**20), action) == []
    assert broken(beside(total_bytes=second.total_bytes * 9 // 10), action) == ["devices"]
    assert broken(beside(mig=1), action) == ["devices"]


def test_a_runtime_gets_no_device_that_it_cannot_use() -> None:
    cpu_build = RuntimeStatus(
        name=RuntimeName.VLLM, enabled=True, healthy=True, device_kinds=frozenset({"cpu"})
    )
    assert broken(fleet(model("a"), runtimes=(cpu_build,)), load("a")) == ["device-kind"]
