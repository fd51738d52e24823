"""What an LLM may do otherwise than the rules: kinds, budgets, rests, and what must be true of it."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.lifecycle import ModelState
from modelium.models import (
    GIB,
    Departure,
    DepartureKind,
    EvictionCause,
    Fleet,
    Load,
    Model,
    Plan,
    RuntimeName,
    Traffic,
    Trigger,
    Unload,
)
from modelium.policy import validate
from modelium.policy.departures import (
    HOUR_S,
    LASTS_S,
    REST_S,
    held,
    is_proven,
    left_s,
    open_until,
    rests_until,
    spared,
    was_wrong,
)
from tests.fakes.fleets import NOW, fleet, loaded, model, policy

K = DepartureKind
MAY = policy(departures=dict.fromkeys(K, 100.0))


def past(kind: DepartureKind, ago_s: float = 60.0, **given: Any) -> Departure:
    fields = {"model": "a", "price_s": 30.0, "at": NOW - ago_s, "until": NOW - ago_s + 600}
    return Departure(kind=kind, **{**fields, **given})


def with_past(*departures: Departure, models: tuple[Model, ...] = ()) -> Fleet:
    return fleet(*models, departures=departures)


def used(at: float | None, name: str = "a") -> dict[str, Model]:
    return {name: loaded(name, "n/g0", traffic=Traffic(last_request_at=at))}


@pytest.mark.parametrize("kind", [K.QUEUE, K.EVICT])
def test_what_waited_or_left_was_wrong_if_it_was_asked_for(kind: DepartureKind) -> None:
    assert was_wrong(past(kind), {}, now=NOW) is None
    assert was_wrong(past(kind, until=NOW), {}, now=NOW) is False
    assert was_wrong(past(kind, asked_at=NOW - 1), {}, now=NOW) is True
    assert was_wrong(past(kind, until=NOW - 1, asked_at=NOW - 9), {}, now=NOW) is True


def test_an_eviction_was_wrong_if_the_model_that_it_was_for_was_not_asked_for() -> None:
    paid = past(K.EVICT, beneficiary="b", until=NOW)
    assert was_wrong(paid, used(NOW - 59, "b"), now=NOW) is False
    assert was_wrong(paid, used(NOW - 60, "b"), now=NOW) is True
    assert was_wrong(paid, used(NOW - 59, "a"), now=NOW) is True
    assert was_wrong(paid, used(NOW - 59, "b"), now=NOW - 1) is None


def test_what_was_spared_was_wrong_if_it_was_not_asked_for() -> None:
    assert was_wrong(past(K.SPARE), used(NOW - 61), now=NOW) is None
    assert was_wrong(past(K.SPARE), used(NOW - 60), now=NOW) is None
    assert was_wrong(past(K.SPARE), used(NOW - 59), now=NOW) is False
    assert was_wrong(past(K.SPARE, until=NOW), used(NOW - 61), now=NOW) is True
    assert was_wrong(past(K.SPARE, until=NOW), used(None), now=NOW) is True
    assert was_wrong(past(K.SPARE, until=NOW), {}, now=NOW) is True


def test_other_devices_are_never_wrong() -> None:
    assert was_wrong(past(K.DEVICE, asked_at=NOW), {}, now=NOW) is False


def test_a_departure_stands_until_its_time() -> None:
    known = with_past(
        past(K.QUEUE, model="waits", until=NOW + 1),
        past(K.QUEUE, model="waited", until=NOW),
        past(K.SPARE, model="stays", until=NOW + 1),
        past(K.EVICT, model="left", until=NOW + 1),
    )
    assert held(known, now=NOW) == {"waits"}
    assert spared(known, now=NOW) == {"stays"}


def test_a_budget_counts_the_last_hour_of_its_kind() -> None:
    known = with_past(
        past(K.EVICT, 10, price_s=30.0, until=NOW),
        past(K.EVICT, HOUR_S - 1, price_s=40.0),
        past(K.EVICT, HOUR_S, price_s=99.0),
        past(K.QUEUE, 10, price_s=99.0),
    )
    assert left_s(K.EVICT, known, MAY, now=NOW) == 30.0
    assert left_s(K.SPARE, known, MAY, now=NOW) == 100.0
    assert left_s(K.EVICT, known, policy(departures={K.EVICT: 5.0}), now=NOW) == 0.0
    assert left_s(K.EVICT, known, policy(departures={K.QUEUE: 5.0}), now=NOW) is None


def test_a_kind_rests_when_three_of_the_last_five_were_wrong() -> None:
    def wrong(ago_s: float, kind: DepartureKind = K.EVICT) -> Departure:
        return past(kind, ago_s, asked_at=NOW - ago_s + 1)

    right, unknown = past(K.EVICT, 700), past(K.EVICT, 5)
    assert rests_until(K.EVICT, with_past(wrong(10), wrong(20)), now=NOW) is None
    three = (unknown, wrong(10), past(K.SPARE, 11), wrong(20), wrong(30))
    assert rests_until(K.EVICT, with_past(*three), now=NOW) == NOW - 10 + REST_S
    assert rests_until(K.QUEUE, with_past(*three), now=NOW) is None
    assert left_s(K.EVICT, with_past(*three), MAY, now=NOW) is None
    together = (wrong(10), wrong(10), wrong(10))
    assert rests_until(K.EVICT, with_past(*together), now=NOW) is None
    mixed = (wrong(10), right, wrong(720), past(K.EVICT, 730), wrong(740))
    assert rests_until(K.EVICT, with_past(*mixed), now=NOW) == NOW - 10 + REST_S
    assert rests_until(K.EVICT, with_past(past(K.EVICT, 699), *mixed), now=NOW) is None
    assert rests_until(K.EVICT, with_past(unknown, *mixed), now=NOW) == NOW - 10 + REST_S
    old = [wrong(REST_S + i) for i in range(3)]
    assert rests_until(K.EVICT, with_past(*old), now=NOW) is None
    late = [wrong(REST_S - 1 + i) for i in range(3)]
    assert rests_until(K.EVICT, with_past(*late), now=NOW) == NOW + 1


def test_one_is_open_at_a_time_until_one_was_right() -> None:
    right, wrong = past(K.EVICT, 700), past(K.EVICT, 90, asked_at=NOW - 1)
    pending, other = past(K.EVICT, 5, until=NOW + 7), past(K.QUEUE, 5)
    for known, until in (
        ((), None),
        ((other,), None),
        ((pending,), NOW + 7),
        ((pending, wrong), NOW + 7),
        ((pending, wrong, right), NOW + 7),
        ((pending, right), None),
        ((wrong,), None),
    ):
        assert open_until(K.EVICT, with_past(*known), now=NOW) == until
        left = left_s(K.EVICT, with_past(*known), MAY, now=NOW)
        assert (left is None) is (until is not None)
    for known, proven in (((), False), ((pending, right), True), ((wrong, right), False)):
        assert is_proven(K.EVICT, with_past(*known), now=NOW) is proven
    assert is_proven(K.DEVICE, with_past(), now=NOW)


# --- the validator ---------------------------------------------------------------------------


def now_made(kind: DepartureKind, name: str, **given: Any) -> Departure:
    fields = {"model": name, "price_s": 60.0, "until": NOW + LASTS_S[kind]}
    return Departure(kind=kind, **{**fields, **given})


def load(name: str, device: str = "n/g0") -> Load:
    return Load(
        model=name,
        runtime=RuntimeName.VLLM,
        devices=(device,),
        reserve={device: 60 * GIB},
        reason="",
    )


def unload(name: str) -> Unload:
    return Unload(model=name, cause=EvictionCause.REVIEW, reason="")


KNOWN = fleet(
    loaded("old", "n/g1", gib=60),
    model("new", 60, state=ModelState.QUEUED),
    model("asked", 60, state=ModelState.QUEUED, traffic=Traffic(pending=1)),
    model("always", 60, state=ModelState.QUEUED),
)


def faults(*actions: Any, departures: Any, known: Fleet = KNOWN, **given: Any) -> list[str]:
    rules = policy(
        departures=dict.fromkeys(K, 100.0), always_loaded=frozenset({"always"})
    ).model_copy(update=given)
    plan = Plan(author="llm", trigger=Trigger.REVIEW, actions=actions, departures=tuple(departures))
    found = validate(plan, known, rules, now=NOW)
    assert {v.rule for v in found} <= {"departure"}
    return [v.message for v in found]


def test_departures_that_are_true_and_affordable_are_allowed() -> None:
    assert faults(departures=[now_made(K.QUEUE, "new")]) == []
    assert faults(departures=[now_made(K.SPARE, "old", price_s=0.0)]) == []
    assert faults(load("new"), departures=[now_made(K.DEVICE, "new", price_s=0.0)]) == []
    gone = [now_made(K.EVICT, "old", price_s=30.0)]
    assert faults(unload("old"), load("new", "n/g1"), departures=gone) == []


def test_other_devices_are_allowed_although_the_plan_is_a_moment_old() -> None:
    moved = now_made(K.DEVICE, "new", price_s=0.0, until=NOW - 0.01)
    assert faults(load("new"), departures=[moved]) == []


def test_nothing_that_a_request_waits_for_is_held_below_the_threshold_either() -> None:
    (found,) = faults(departures=[now_made(K.QUEUE, "asked")], pending_requests_threshold=3)
    assert found.startswith("asked: queue: requests wait for it")


@pytest.mark.parametrize(
    ("actions", "departure", "why"),
    [
        ([load("new")], now_made(K.QUEUE, "new"), "queue: the plan loads it"),
        ([], now_made(K.QUEUE, "asked"), "queue: requests wait for it, or it is in always_loaded"),
        ([], now_made(K.QUEUE, "always"), "queue: requests wait for it, or it is in always_loaded"),
        ([], now_made(K.EVICT, "old"), "evict: the plan does not unload it"),
        ([unload("old")], now_made(K.SPARE, "old"), "spare: the plan unloads it, or it is not loaded"),
        ([], now_made(K.SPARE, "new"), "spare: the plan unloads it, or it is not loaded"),
        ([], now_made(K.DEVICE, "new"), "device: the plan does not load it"),
        ([], now_made(K.QUEUE, "nobody"), "queue: no such model"),
        ([], now_made(K.QUEUE, "new", until=NOW + 602), "queue: it may stand for 600 s"),
        ([], now_made(K.QUEUE, "new", until=NOW - 1), "queue: it may stand for 600 s"),
        ([], now_made(K.QUEUE, "new", price_s=59.0),
         "queue: its price is 59 load-seconds; one load takes 60 s"),
        ([unload("old")], now_made(K.EVICT, "old", price_s=29.0),
         "evict: its price is 29 load-seconds; one load takes 30 s"),
    ],
)  # fmt: skip
def test_an_untrue_departure_is_refused(actions: Any, departure: Departure, why: str) -> None:
    assert faults(*actions, departures=[departure]) == [f"{departure.model}: {why}"]


def test_what_the_operator_does_not_allow_is_refused() -> None:
    wanted = [now_made(K.QUEUE, "new")]
    only = policy(departures={K.EVICT: 100.0})
    plan = Plan(author="llm", trigger=Trigger.REVIEW, departures=tuple(wanted))
    (found,) = validate(plan, KNOWN, only, now=NOW)
    assert found.message == "new: brain.may does not allow queue"


def test_a_spent_budget_is_refused_for_all_departures_of_a_plan_together() -> None:
    two = [now_made(K.SPARE, "old", price_s=60.0), now_made(K.SPARE, "other", price_s=41.0)]
    used_since = Traffic(last_request_at=NOW - 5)
    known = fleet(
        loaded("old", "n/g1", gib=60, traffic=used_since), loaded("other", "n/g0", gib=60)
    )
    right = past(K.SPARE, 4000, model="old", price_s=99.0)
    proven = known.model_copy(update={"departures": (right,)})
    assert faults(departures=two, known=proven) == [
        "old, other: spare gives up 101 load-seconds; brain.may.spare allows 100 per hour, "
        "100 are left"
    ]
    assert faults(departures=two[:1], known=proven) == []
    recent = past(K.SPARE, price_s=41.0, model="old")
    spent = known.model_copy(update={"departures": (recent,)})
    assert faults(departures=two[:1], known=spent) == [
        "old: spare gives up 60 load-seconds; brain.may.spare allows 100 per hour, 59 are left"
    ]


def test_before_one_was_right_only_one_is_allowed() -> None:
    known = fleet(loaded("old", "n/g1", gib=60), loaded("other", "n/g0", gib=60))
    one, two = (now_made(K.SPARE, name, price_s=0.0) for name in ("old", "other"))
    assert faults(departures=[one], known=known) == []
    wrong = "old, other: spare: only one at a time until one was right"
    assert faults(departures=[one, two], known=known) == [wrong]
    pending = past(K.SPARE, 9, model="x", until=NOW + 7)
    assert faults(departures=[one], known=known.model_copy(update={"departures": (pending,)})) == [
        "old: spare: only one at a time until one was right; the last one is judged in 7 s"
    ]
    both = [now_made(K.EVICT, name, beneficiary="new", price_s=30.0) for name in ("old", "other")]
    crowd = fleet(*known.models, model("new", 60, state=ModelState.QUEUED))
    gone = [unload("old"), unload("other")]
    assert faults(*gone, load("new"), departures=both, known=crowd) == []


def test_a_resting_kind_is_refused() -> None:
    wrong = tuple(past(K.QUEUE, 10.0 * i, asked_at=NOW, model="b") for i in range(1, 4))
    known = KNOWN.model_copy(update={"departures": wrong})
    assert faults(departures=[now_made(K.QUEUE, "new")], known=known) == [
        "new: 3 of the last 5 departures of the kind queue were wrong; it rests for 86390 s"
    ]
