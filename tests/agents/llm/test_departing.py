"""What a plan does otherwise than the rules, and its price in load-seconds."""

from __future__ import annotations

from typing import Any

import pytest

from agents.llm.departing import affordable, budgets, departures, less, may_be_held
from modelium.lifecycle import ModelState
from modelium.models import Departure, DepartureKind, Fleet, Priority, Traffic
from modelium.models.advice import Advice, Spot
from modelium.policy import Policy
from tests.agents.advising import REVIEW, RULES, waiting
from tests.fakes.fleets import NOW, fleet, loaded, model, policy, profile
from tests.fakes.trust import earned

K = DepartureKind
MAY = policy(departures=dict.fromkeys(K, 300.0))
IDLED = Traffic(completed=3, first_request_at=NOW - 9000, last_request_at=NOW - 5000)


def found(known: Fleet, advice: Advice, rules: Policy = MAY) -> list[tuple[str, str, float]]:
    theirs, mine = (RULES.plan(REVIEW, known, rules, a) for a in (Advice(), advice))
    made = departures(theirs, mine, advice, fleet=known, policy=rules, now=NOW)
    lasts = {K.QUEUE: 600, K.SPARE: 900, K.EVICT: 1800, K.DEVICE: 0}
    assert all(d.until == NOW + lasts[d.kind] and d.at == 0.0 for d in made)
    assert all(d.shadow is (d.kind is not K.DEVICE) for d in made)
    return [(d.kind.value, d.model, d.price_s) for d in made]


def test_a_plan_of_the_rules_has_no_departures() -> None:
    known = fleet(waiting("a", 50), waiting("b", 50), loaded("c", "n/g0", gib=60))
    assert found(known, Advice()) == []
    # The order within a class is free.
    assert found(fleet(waiting("a", 50), waiting("b", 50), gpus=1), Advice(order=("b",))) == []


def test_having_a_model_wait_costs_its_load() -> None:
    known = fleet(waiting("a", 50), waiting("b", 20))
    assert found(known, Advice(hold=("a",))) == [("queue", "a", 50.0)]
    assert found(known, Advice(hold=("a", "b"))) == [("queue", "a", 50.0), ("queue", "b", 20.0)]
    assert found(known, Advice(hold=("a",)), policy()) == [("queue", "a", 50.0)]


def test_an_eviction_costs_the_next_load_of_the_model_that_leaves() -> None:
    known = fleet(waiting("a", 60), loaded("b", "n/g0", gib=60), gpus=1)
    paid = Advice(spots={"a": Spot(devices=("n/g0",), evicts=("b",))})
    assert found(known, paid) == [("evict", "b", 30.0)]


def test_a_load_ahead_that_may_be_in_vain_is_in_the_price() -> None:
    away = model("a", 60, state=ModelState.UNLOADED)
    known = fleet(away, loaded("b", "n/g0", gib=60), gpus=1)
    spots = {"a": Spot(devices=("n/g0",), evicts=("b",))}
    paid = Advice(spots=spots, prewarm=("a",))
    assert found(known, paid) == [("evict", "b", 90.0)]
    plans = [RULES.plan(REVIEW, known, MAY, a) for a in (Advice(), paid)]
    (made,) = departures(plans[0], plans[1], paid, fleet=known, policy=MAY, now=NOW)
    assert made.beneficiary == "a"


def test_a_model_that_has_to_wait_for_it_is_in_the_price_once() -> None:
    idle = loaded("idle", "n/g0", gib=60, traffic=IDLED)
    known = fleet(idle, waiting("a", 60), gpus=1)
    assert found(known, Advice(spare=("idle",))) == [("spare", "idle", 60.0)]
    alone = fleet(idle, gpus=1)
    assert found(alone, Advice(spare=("idle",))) == [("spare", "idle", 0.0)]
    both = fleet(idle, loaded("idle2", "n/g0", gib=10, traffic=IDLED), waiting("a", 60), gpus=1)
    assert found(both, Advice(spare=("idle", "idle2"))) == [
        ("spare", "idle", 60.0),
        ("spare", "idle2", 0.0),
    ]


def test_what_leaves_instead_of_a_spared_model_is_paid_for() -> None:
    vip = waiting("vip", 60, priority=Priority.HIGH)
    busier = loaded("x", "n/g0").traffic.model_copy(update={"rates": (0.0, 0.1, 0.1, 0.1)})
    known = fleet(
        loaded("cheap", "n/g0", gib=60), loaded("dear", "n/g1", gib=60, traffic=busier), vip
    )
    assert found(known, Advice(spare=("cheap",))) == [
        ("evict", "dear", 30.0),
        ("spare", "cheap", 0.0),
    ]


def test_other_devices_cost_what_they_keep_others_from() -> None:
    spots = {"a": Spot(devices=("n/g1",))}
    known = fleet(waiting("a", 10), loaded("b", "n/g0", gib=40))
    assert found(known, Advice(spots=spots)) == [("device", "a", 0.0)]
    # The largest hole shrinks from 72 GiB to 62, in which `large` does not fit any more.
    large = model("large", 70, state=ModelState.UNLOADED)
    small = model("small", 60, state=ModelState.UNLOADED)
    known = fleet(waiting("a", 10), loaded("b", "n/g0", gib=40), large, small)
    assert found(known, Advice(spots=spots)) == [("device", "a", 70.0)]
    queue = fleet(waiting("a", 10), loaded("b", "n/g0", gib=40), waiting("c", 70))
    assert found(queue, Advice(spots=spots)) == [("device", "a", 70.0)]


def test_other_devices_cost_a_split_model_that_they_keep_out() -> None:
    spots = {"a": Spot(devices=("n/g1",))}
    wide = profile(140, tensor_parallel_degrees=(1, 2))
    split = model("split", profile=wide, state=ModelState.UNLOADED)
    # 72 GiB on two devices hold its halves; one of them would have 62 left.
    known = fleet(waiting("a", 10), loaded("b", "n/g0", gib=40), split, gpus=3)
    assert found(known, Advice(spots=spots)) == [("device", "a", 140.0)]
    more = fleet(waiting("a", 10), loaded("b", "n/g0", gib=40), split, gpus=4)
    assert found(more, Advice(spots=spots)) == [("device", "a", 0.0)]


@pytest.mark.parametrize(
    ("given", "rules", "may"),
    [
        ({}, {}, True),
        ({"traffic": Traffic(pending=1)}, {}, False),
        ({"traffic": Traffic(pending=1)}, {"pending_requests_threshold": 5}, False),
        ({}, {"always_loaded": frozenset({"a"})}, False),
        ({"state": ModelState.LOADING}, {}, False),
    ],
)
def test_only_what_nobody_waits_for_may_be_held(given: Any, rules: Any, may: bool) -> None:
    queued = waiting("a", 10).model_copy(update=given)
    assert may_be_held(queued, policy(**rules)) is may


def test_budgets_bound_each_kind_by_itself() -> None:
    past = Departure(kind=K.EVICT, model="x", price_s=250.0, at=NOW - 9, until=NOW)
    known = fleet(departures=(past,))

    def cost(kind: DepartureKind, price: float) -> Departure:
        return Departure(kind=kind, model="a", price_s=price, until=NOW)

    assert affordable([cost(K.EVICT, 50.0), cost(K.SPARE, 300.0)], known, MAY, now=NOW)
    assert affordable([cost(K.DEVICE, 0.0)], known, MAY, now=NOW)
    assert not affordable([cost(K.DEVICE, 0.1)], known, MAY, now=NOW)
    assert not affordable([cost(K.EVICT, 50.1)], known, MAY, now=NOW)
    assert not affordable([cost(K.SPARE, 200.0), cost(K.SPARE, 101.0)], known, MAY, now=NOW)
    only = policy(departures={K.EVICT: 300.0})
    assert not affordable([cost(K.QUEUE, 0.0)], known, only, now=NOW)
    assert budgets(known, MAY, now=NOW) == {"queue": 300, "device": 0, "evict": 50, "spare": 300}
    assert budgets(known, only, now=NOW) == {"evict": 50}


def judged_by(
    known: Fleet, advice: Advice
) -> list[tuple[str, str, tuple[str, ...], tuple[str, ...]]]:
    theirs, mine = (RULES.plan(REVIEW, known, MAY, a) for a in (Advice(), advice))
    made = departures(theirs, mine, advice, fleet=known, policy=MAY, now=NOW)
    return [(d.kind.value, d.model, d.right_if, d.wrong_if) for d in made]


def test_to_wait_is_right_if_a_model_needed_the_room() -> None:
    held = Advice(hold=("a",))
    alone = fleet(waiting("a", 50), model("b", 20, state=ModelState.UNLOADED))
    assert judged_by(alone, held) == [("queue", "a", (), ("a",))]
    # Beside `a`, 22 GiB are free on the only device; without it, all 72.
    others = [
        model(n, g, state=ModelState.UNLOADED) for n, g in (("fits", 20), ("big", 60), ("vast", 90))
    ]
    known = fleet(waiting("a", 50), *others, gpus=1)
    assert judged_by(known, held) == [("queue", "a", ("big",), ("a",))]
    both = fleet(waiting("a", 50, priority=Priority.HIGH), waiting("c", 60), gpus=1)
    assert judged_by(both, held) == [("queue", "a", ("c",), ("a",))]


def test_to_pay_is_right_if_the_model_that_it_was_for_was_needed() -> None:
    known = fleet(waiting("a", 60), loaded("b", "n/g0", gib=60), gpus=1)
    paid = Advice(spots={"a": Spot(devices=("n/g0",), evicts=("b",))})
    assert judged_by(known, paid) == [("evict", "b", ("a",), ("b",))]


def test_to_spare_is_right_if_it_was_needed_and_no_other_model() -> None:
    idle = loaded("idle", "n/g0", gib=60, traffic=IDLED)
    spare = Advice(spare=("idle",))
    assert judged_by(fleet(idle, gpus=1), spare) == [("spare", "idle", ("idle",), ())]
    queued = fleet(idle, waiting("b", 60), waiting("a", 8), gpus=1)
    assert judged_by(queued, spare) == [("spare", "idle", ("idle",), ("b",))]


def test_what_leaves_instead_of_a_spared_model_is_judged_by_that() -> None:
    busier = loaded("x", "n/g0").traffic.model_copy(update={"rates": (0.0, 0.1, 0.1, 0.1)})
    known = fleet(
        loaded("cheap", "n/g0", gib=60),
        loaded("dear", "n/g1", gib=60, traffic=busier),
        waiting("vip", 60, priority=Priority.HIGH),
    )
    assert judged_by(known, Advice(spare=("cheap",))) == [
        ("evict", "dear", ("cheap",), ("dear",)),
        ("spare", "cheap", ("cheap",), ()),
    ]


def test_trusted_kinds_are_no_shadows() -> None:
    known = fleet(waiting("a", 50), departures=earned(K.QUEUE))
    held = Advice(hold=("a",))
    theirs, mine = (RULES.plan(REVIEW, known, MAY, a) for a in (Advice(), held))
    (made,) = departures(theirs, mine, held, fleet=known, policy=MAY, now=NOW)
    assert not made.shadow


def test_advice_without_a_kind_keeps_the_rest() -> None:
    spots = {"a": Spot(devices=("n/g0",), evicts=("b",))}
    whole = Advice(hold=("h",), spare=("s",), spots=spots, prewarm=("a", "p"), order=("o",))
    assert less(whole, {K.DEVICE}) == whole
    assert less(whole, {K.QUEUE}) == whole.model_copy(update={"hold": ()})
    assert less(whole, {K.SPARE}) == whole.model_copy(update={"spare": ()})
    assert less(whole, {K.EVICT}) == whole.model_copy(update={"spots": {}, "prewarm": ("p",)})
    assert less(whole, K) == Advice(prewarm=("p",), order=("o",))
