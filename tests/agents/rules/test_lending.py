"""How much idle memory each load of a finished plan gets."""

from __future__ import annotations

from typing import Any

import pytest

from agents.rules.device_memory import DeviceMemory
from agents.rules.idle_memory import lend_idle_memory
from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Action,
    Fleet,
    Keep,
    Load,
    LoadSettings,
    MeasuredLoad,
    Model,
    Queue,
    RuntimeName,
)
from modelium.policy import Policy
from tests.fakes.fleets import NOW, fleet, loaded, model, policy

MIB = 1024**2
PLENTY = 1000 * GIB


def load(name: str, *devices: str, kv: int | None = GIB) -> Load:
    return Load(
        model=name,
        runtime=RuntimeName.VLLM,
        devices=devices,
        settings=LoadSettings(kv_cache_bytes=kv, extra_kv_bytes=5),
        reserve=dict.fromkeys(devices, 2 * GIB),
        reason="why",
    )


def share(of: float, **given: Any) -> Policy:
    return policy(kv_cache_share=of, max_gpu_memory_utilization=1.0, **given)


def lent(
    actions: list[Action],
    world: Fleet,
    by: Policy,
    ceilings: dict[str, int] | None = None,
    leaving: tuple[str, ...] = (),
) -> tuple[list[int], DeviceMemory]:
    """Return the bytes lent to each action, and the memory afterwards."""
    memory = DeviceMemory(fleet=world, policy=by, now=NOW, value=lambda _: 0.0)
    for name in leaving:
        memory.unload(world.models_by_name[name])
    for action in actions:
        if isinstance(action, Load):
            memory.load(model(action.model), action.devices, 2 * GIB)
    most = {a.model: PLENTY for a in actions} if ceilings is None else ceilings
    found = lend_idle_memory(actions, most, memory, world, by)
    assert [a.model for a in found] == [a.model for a in actions]
    sizes = []
    for before, after in zip(actions, found, strict=True):
        size = 0
        if isinstance(after, Load) and isinstance(before, Load):
            size = after.settings.extra_kv_bytes - before.settings.extra_kv_bytes
        if not size:
            assert after == before
        sizes.append(size)
    return sizes, memory


def test_a_loan_is_added_to_the_pool_the_booking_and_the_reason() -> None:
    world, by = fleet(model("a"), gpus=1, gib=10), share(0.5)
    memory = DeviceMemory(fleet=world, policy=by, now=NOW, value=lambda _: 0.0)
    memory.load(world.models[0], ("n/g0",), 2 * GIB)
    (found,) = lend_idle_memory([load("a", "n/g0")], {"a": PLENTY}, memory, world, by)
    expected = Load(
        model="a",
        runtime=RuntimeName.VLLM,
        devices=("n/g0",),
        settings=LoadSettings(kv_cache_bytes=5 * GIB, extra_kv_bytes=4 * GIB + 5),
        reserve={"n/g0": 6 * GIB},
        reason="why; 4.00 GiB of idle memory for its KV cache",
    )
    assert found == expected
    assert memory.room("n/g0") == 4 * GIB


def test_a_load_without_a_pool_yet_gets_one() -> None:
    world, by = fleet(model("a"), gpus=1, gib=10), share(0.5)
    (size,), _ = lent([load("a", "n/g0", kv=None)], world, by, {"a": 3 * GIB})
    assert size == 3 * GIB


@pytest.mark.parametrize(
    ("ceiling", "expected"),
    [
        (0, 0),
        (GIB, 0),
        (GIB + GIB // 4 - 1, 0),
        (GIB + GIB // 4, GIB // 4),
        (2 * GIB, GIB),
        (2 * GIB - 1, GIB - MIB),
        (5 * GIB + MIB, 4 * GIB),  # half of what is free
    ],
)
def test_a_loan_is_of_whole_mebibytes_worthwhile_and_below_what_the_pool_can_use(
    ceiling: int, expected: int
) -> None:
    world = fleet(model("a"), gpus=1, gib=10)
    assert lent([load("a", "n/g0")], world, share(0.5), {"a": ceiling})[0] == [expected]


def test_nothing_is_lent_to_a_load_without_a_ceiling() -> None:
    world = fleet(model("a"), model("b"), gpus=1, gib=10)
    plan = [load("a", "n/g0"), Keep(model="b", reason="why")]
    assert lent(plan, world, share(0.5), {})[0] == [0, 0]


def test_nothing_is_lent_while_a_model_is_queued() -> None:
    world = fleet(model("a"), model("b"), gpus=1, gib=100)
    sizes, memory = lent([load("a", "n/g0"), Queue(model="b", reason="why")], world, share(0.5))
    assert sizes == [0, 0]
    assert memory.room("n/g0") == 98 * GIB


def test_loads_share_what_is_left_in_turn() -> None:
    world = fleet(model("a"), model("b"), gpus=1, gib=20)
    sizes, memory = lent([load("a", "n/g0"), load("b", "n/g0")], world, share(0.5))
    assert sizes == [8 * GIB, 4 * GIB]
    assert memory.room("n/g0") == 4 * GIB


def test_the_fullest_device_of_a_split_model_limits_its_loan() -> None:
    world = fleet(model("a"), loaded("x", "n/g1", gib=4), gib=10)
    assert lent([load("a", "n/g0", "n/g1")], world, share(1.0))[0] == [4 * GIB]


def test_what_other_models_need_is_kept_over_all_devices() -> None:
    # 16 GiB of two devices are free, and 5 GiB · 1.2 + 2 GiB are another model's.
    world = fleet(model("a"), model("other", 5), gib=10)
    assert lent([load("a", "n/g0", "n/g1")], world, share(1.0))[0] == [4 * GIB]
    # One of two loads takes what the other would have got.
    world = fleet(model("a"), model("b"), model("other", 5), gib=10)
    sizes, _ = lent([load("a", "n/g0"), load("b", "n/g1")], world, share(1.0))
    assert sizes == [8 * GIB, 0]
    world = fleet(model("a"), model("other", 10), gib=10)
    assert lent([load("a", "n/g0")], world, share(1.0))[0] == [4 * GIB]
    world = fleet(model("a"), model("other", 100), gib=10)
    assert lent([load("a", "n/g0")], world, share(1.0))[0] == [0]


def took(gib: int) -> MeasuredLoad:
    return MeasuredLoad(
        runtime=RuntimeName.VLLM, device_kind="H100", settings_digest="",
        per_device_bytes=gib * GIB, load_s=1, at=NOW,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("other", "leaving", "expected"),
    [
        (model("b", 5), (), 10),
        (model("b", 5, measured=(took(4), took(7))), (), 10),  # less than is estimated for it
        (model("b", 5, measured=(took(12), took(4))), (), 6),
        (model("b", 5, state=ModelState.FAILED), (), 18),
        (model("b", profile=None, state=ModelState.INGESTED), (), 0),
        (model("b", profile=None, state=ModelState.FAILED), (), 18),
        (loaded("b", "n/g0", gib=5), (), 13),
        (loaded("b", "n/g0", gib=5), ("b",), 10),
        (loaded("b", "n/g0", gib=5, state=ModelState.SLEEPING), (), 18),
    ],
)
def test_what_another_model_would_need_depends_on_whether_it_is_loaded(
    other: Model, leaving: tuple[str, ...], expected: int
) -> None:
    world = fleet(model("a"), other, gpus=1, gib=20)
    (size,), _ = lent([load("a", "n/g0")], world, share(1.0), leaving=leaving)
    assert size == expected * GIB


@pytest.mark.parametrize(
    ("second", "expected"), [({}, 8), ({"healthy": False}, 0), ({"kind": "cpu"}, 0)]
)
def test_only_healthy_gpus_have_memory_for_the_other_models(
    second: dict[str, Any], expected: int
) -> None:
    (gpu,) = fleet(gpus=1, gib=10).devices
    devices = (gpu, gpu.model_copy(update={"uuid": "other", **second}))
    world = fleet(model("a"), model("b", 5), devices=devices)
    assert lent([load("a", "n/g0")], world, share(1.0))[0] == [expected * GIB]


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [(None, 10 * GIB), (24 * GIB, 10 * GIB), (14 * GIB, 5 * GIB), (4 * GIB, 0), (0, 0)],
)
def test_what_is_lent_stays_within_the_quota_of_the_team(
    allowed: int | None, expected: int
) -> None:
    world = fleet(model("m"), gib=22)
    by = share(0.5)
    memory = DeviceMemory(fleet=world, policy=by, now=NOW, value=lambda _: 0.0)
    action = load("m", "n/g0", "n/g1")
    memory.load(model("m"), action.devices, 2 * GIB)
    asked: list[str] = []

    def quota(each: Model) -> int | None:
        asked.append(each.name)
        return allowed

    (found,) = lend_idle_memory([action], {"m": PLENTY}, memory, world, by, quota=quota)
    assert isinstance(found, Load)
    assert {held - 2 * GIB for held in found.reserve.values()} == {expected}
    assert asked == ["m"]
