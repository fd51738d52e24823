"""Holds, spared models and spots: what advice and standing departures change in a plan."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.lifecycle import ModelState
from modelium.models import (
    Departure,
    DepartureKind,
    Fleet,
    Load,
    Model,
    Plan,
    Priority,
    Queue,
    Traffic,
    Trigger,
    Unload,
)
from modelium.models.advice import RULES_ALONE, Advice, Spot
from modelium.policy import validate
from modelium.ports import Question
from tests.agents.advising import RULES, waiting
from tests.fakes.fleets import NOW, fleet, loaded, model, policy

IDLED = Traffic(completed=3, first_request_at=NOW - 9000, last_request_at=NOW - 5000)


def planned(
    known: Fleet,
    advice: Advice = RULES_ALONE,
    trigger: Trigger = Trigger.SWEEP,
    subject: str | None = None,
    **rules: Any,
) -> Plan:
    given = policy(**rules)
    plan = RULES.plan(Question(trigger=trigger, model=subject, now=NOW), known, given, advice)
    assert validate(plan, known, given, now=NOW) == []
    return plan


def loads(plan: Plan) -> list[tuple[str, tuple[str, ...]]]:
    return [(a.model, a.devices) for a in plan.actions if isinstance(a, Load)]


def gone(plan: Plan) -> list[str]:
    return [a.model for a in plan.actions if isinstance(a, Unload)]


def standing(kind: DepartureKind, name: str, until: float = NOW + 60) -> tuple[Departure, ...]:
    return (Departure(kind=kind, model=name, price_s=1.0, at=NOW - 60, until=until),)


@pytest.mark.parametrize("by", ["advice", "departure"])
def test_a_held_model_waits_although_there_is_room(by: str) -> None:
    advice = Advice(hold=("a",)) if by == "advice" else RULES_ALONE
    past = standing(DepartureKind.QUEUE, "a") if by == "departure" else ()
    known = fleet(waiting("a", 10), waiting("b", 10), departures=past)
    assert loads(planned(known, advice)) == [("b", ("n/g0",))]
    over = fleet(waiting("a", 10), departures=standing(DepartureKind.QUEUE, "a", NOW))
    assert loads(planned(over)) == [("a", ("n/g0",))]


@pytest.mark.parametrize(
    "urgent",
    [{"traffic": Traffic(pending=1)}, {"queued_at": NOW - 1800}],
    ids=["requested", "starving"],
)
def test_a_model_that_is_urgent_is_not_held(urgent: dict[str, Any]) -> None:
    known = fleet(waiting("a", 10, **urgent), departures=standing(DepartureKind.QUEUE, "a"))
    assert loads(planned(known)) == [("a", ("n/g0",))]


def test_too_few_requests_for_an_eviction_are_enough_against_a_hold() -> None:
    waits = waiting("a", 10, traffic=Traffic(pending=1))
    known = fleet(waits, departures=standing(DepartureKind.QUEUE, "a"))
    assert loads(planned(known, pending_requests_threshold=3)) == [("a", ("n/g0",))]


@pytest.mark.parametrize("trigger", [Trigger.DEMAND, Trigger.OPERATOR])
def test_a_request_and_an_operator_load_a_held_model_at_once(trigger: Trigger) -> None:
    waits = waiting("a", 10, traffic=Traffic(pending=1))
    known = fleet(waits, departures=standing(DepartureKind.QUEUE, "a"))
    assert loads(planned(known, trigger=trigger, subject="a")) == [("a", ("n/g0",))]


def test_a_held_newcomer_is_queued_with_the_reason() -> None:
    plan = planned(fleet(model("a")), Advice(hold=("a",)), Trigger.INGEST, "a")
    (action,) = plan.actions
    assert isinstance(action, Queue)
    assert action.reason == "the LLM has it wait; a request loads it at once"
    # One that may not be queued from its state is loaded as ever.
    asleep = loaded("a", "n/g0").model_copy(update={"state": ModelState.SLEEPING})
    again = planned(fleet(asleep), Advice(hold=("a",)), Trigger.INGEST, "a")
    assert loads(again) == [("a", ("n/g0",))]


def test_a_spared_model_is_not_unloaded_for_idling_nor_for_the_queue() -> None:
    idle = loaded("idle", "n/g0", gib=60, traffic=IDLED)
    queued = waiting("a", 60, priority=Priority.HIGH)
    known = fleet(idle, queued, gpus=1)
    assert gone(planned(known)) == ["idle"]
    assert gone(planned(known, Advice(spare=("idle",)))) == []
    stays = fleet(idle, departures=standing(DepartureKind.SPARE, "idle"), gpus=1)
    assert gone(planned(fleet(idle, gpus=1))) == ["idle"]
    assert planned(stays).actions == ()
    low = loaded("low", "n/g0", gib=60)
    assert gone(planned(fleet(low, queued, gpus=1))) == ["low"]
    assert gone(planned(fleet(low, queued, gpus=1), Advice(spare=("low",)))) == []
    # A new model evicts what idled out, unless it is spared.
    newcomer = fleet(idle, model("new", 60), gpus=1)
    assert gone(planned(newcomer, trigger=Trigger.INGEST, subject="new")) == ["idle"]
    spared = planned(newcomer, Advice(spare=("idle",)), Trigger.INGEST, "new")
    assert [type(a) for a in spared.actions] == [Queue]


SPARED_AT = NOW - 60


@pytest.mark.parametrize(
    ("queued_at", "price_s", "until", "makes_room"),
    [
        (SPARED_AT - 1, 1.0, NOW + 60, False),
        (SPARED_AT, 1.0, NOW + 60, False),
        (SPARED_AT + 1, 1.0, NOW + 60, True),
        (SPARED_AT - 1, 0.0, NOW + 60, True),
        (SPARED_AT - 1, 1.0, NOW, True),
    ],
    ids=["before", "then", "later", "for nothing", "over"],
)
def test_a_spared_model_makes_room_for_all_but_what_its_price_was_paid_for(
    queued_at: float, price_s: float, until: float, makes_room: bool
) -> None:
    idle = loaded("idle", "n/g0", gib=60, traffic=IDLED)
    (past,) = standing(DepartureKind.SPARE, "idle", until)
    past = past.model_copy(update={"price_s": price_s})
    known = fleet(idle, waiting("a", 60, queued_at=queued_at), departures=(past,), gpus=1)
    assert gone(planned(known)) == (["idle"] if makes_room else [])
    lower = loaded("idle", "n/g0", gib=60)
    queued = waiting("a", 60, queued_at=queued_at, priority=Priority.HIGH)
    known = fleet(lower, queued, departures=(past,), gpus=1)
    assert gone(planned(known)) == (["idle"] if makes_room else [])


def test_a_shadow_keeps_no_model_from_making_room() -> None:
    idle = loaded("idle", "n/g0", gib=60, traffic=IDLED)
    (paid,) = standing(DepartureKind.SPARE, "idle")
    shadow = paid.model_copy(update={"shadow": True})
    free = paid.model_copy(update={"at": SPARED_AT - 5, "price_s": 0.0})
    known = fleet(idle, waiting("a", 60, queued_at=SPARED_AT), departures=(shadow, free), gpus=1)
    assert gone(planned(known)) == ["idle"]


def test_a_spared_model_makes_room_for_a_new_one() -> None:
    idle = loaded("idle", "n/g0", gib=60, traffic=IDLED)
    past = standing(DepartureKind.SPARE, "idle")
    known = fleet(idle, model("new", 60), departures=past, gpus=1)
    assert gone(planned(known, trigger=Trigger.INGEST, subject="new")) == ["idle"]


def test_what_several_spares_of_one_plan_give_up_is_paid_for_all_of_them() -> None:
    both = [loaded(f"idle{i}", f"n/g{i}", gib=60, traffic=IDLED) for i in range(2)]
    queued = waiting("a", 60, queued_at=SPARED_AT)
    (paid,) = standing(DepartureKind.SPARE, "idle0")
    free = paid.model_copy(update={"model": "idle1", "price_s": 0.0})
    assert gone(planned(fleet(*both, queued, departures=(paid, free)))) == []
    # One of another plan, or of another kind, has been paid for itself alone.
    later = free.model_copy(update={"at": SPARED_AT + 1})
    assert gone(planned(fleet(*both, queued, departures=(later, paid)))) == ["idle1"]
    held = paid.model_copy(update={"kind": DepartureKind.QUEUE, "model": "x"})
    alone = free.model_copy(update={"model": "idle0"})
    assert gone(planned(fleet(both[0], queued, departures=(held, alone), gpus=1))) == ["idle0"]


def test_a_spare_that_is_renewed_for_nothing_keeps_what_was_paid_for() -> None:
    idle = loaded("idle", "n/g0", gib=60, traffic=IDLED)
    (paid,) = standing(DepartureKind.SPARE, "idle")
    renewed = paid.model_copy(update={"at": NOW - 1, "price_s": 0.0})
    known = fleet(idle, waiting("a", 60, queued_at=SPARED_AT), departures=(renewed, paid), gpus=1)
    assert gone(planned(known)) == []
    over = paid.model_copy(update={"until": NOW})
    assert gone(planned(known.model_copy(update={"departures": (renewed, over)}))) == ["idle"]
    again = paid.model_copy(update={"at": NOW - 200})
    kept = known.model_copy(update={"departures": (paid, again)})
    assert gone(planned(kept)) == [], "the latest counts"


def test_a_spared_model_makes_room_for_requests_starving_and_always_loaded_models() -> None:
    idle = loaded("idle", "n/g0", gib=60, traffic=IDLED)
    spare = Advice(spare=("idle",))
    asked = waiting("a", 60, traffic=Traffic(pending=1))
    assert gone(planned(fleet(idle, asked, gpus=1), spare)) == ["idle"]
    starving = waiting("a", 60, queued_at=NOW - 1800)
    assert gone(planned(fleet(idle, starving, gpus=1), spare)) == ["idle"]
    listed = fleet(idle, waiting("a", 60), gpus=1)
    assert gone(planned(listed, spare, always_loaded=frozenset({"a"}))) == ["idle"]


def spot(*devices: str, evicts: tuple[str, ...] = ()) -> Advice:
    return Advice(spots={"a": Spot(devices=devices, evicts=evicts)})


def test_a_model_is_loaded_on_its_spot() -> None:
    known = fleet(waiting("a", 10), loaded("b", "n/g0", gib=30))
    assert loads(planned(known)) == [("a", ("n/g0",))]
    assert loads(planned(known, spot("n/g1"))) == [("a", ("n/g1",))]
    unknown = planned(known, spot("n/g7"))
    assert loads(unknown) == [("a", ("n/g0",))]


def test_a_spot_evicts_only_what_it_names_and_what_may_be_evicted() -> None:
    def crowd(**given: Any) -> Fleet:
        return fleet(
            waiting("a", 60), loaded("b", "n/g0", gib=60, **given), loaded("c", "n/g1", gib=60)
        )

    paid = planned(crowd(), spot("n/g0", evicts=("b",)))
    assert (gone(paid), loads(paid)) == (["b"], [("a", ("n/g0",))])
    assert planned(crowd(), spot("n/g0", evicts=("c",))).actions == ()
    assert planned(crowd(), spot("n/g0")).actions == ()
    for entitled in ({"pinned": True}, {"traffic": Traffic(in_flight=1)}):
        assert planned(crowd(**entitled), spot("n/g0", evicts=("b",))).actions == ()
    young = loaded("b", "n/g0").deployment
    assert young is not None
    fresh = young.model_copy(update={"ready_at": NOW - 10})
    assert planned(crowd(deployment=fresh), spot("n/g0", evicts=("b",))).actions == ()


def test_a_split_model_is_loaded_on_all_devices_of_its_spot() -> None:
    files = waiting("a", 100).profile
    assert files is not None
    split = files.model_copy(update={"tensor_parallel_degrees": (1, 2)})

    def known(*others: Model) -> Fleet:
        return fleet(waiting("a", 100).model_copy(update={"profile": split}), *others, gpus=3)

    assert loads(planned(known())) == [("a", ("n/g0", "n/g1"))]
    assert loads(planned(known(), spot("n/g1", "n/g2"))) == [("a", ("n/g1", "n/g2"))]
    assert loads(planned(known(), spot("n/g2"))) == [("a", ("n/g0", "n/g1"))]


def test_a_sleeping_model_wakes_where_it_is_whatever_its_spot() -> None:
    asleep = loaded("a", "n/g0", traffic=Traffic(pending=1)).model_copy(
        update={"state": ModelState.SLEEPING}
    )
    assert loads(planned(fleet(asleep), spot("n/g1"))) == [("a", ("n/g0",))]


def test_a_model_is_prewarmed_on_its_spot_with_the_evictions_that_it_names() -> None:
    away = model("a", 60, state=ModelState.UNLOADED)
    known = fleet(away, loaded("b", "n/g0", gib=60), gpus=1)
    ahead = spot("n/g0", evicts=("b",)).model_copy(update={"prewarm": ("a",)})
    plan = planned(known, ahead)
    assert (gone(plan), loads(plan)) == (["b"], [("a", ("n/g0",))])
    assert planned(known, Advice(prewarm=("a",))).actions == ()
