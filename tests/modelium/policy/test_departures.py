"""What an LLM may do otherwise than the rules: kinds, budgets, trust, and what must be true of it."""

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
    held,
    is_trusted,
    left_s,
    noted,
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


def judged(kind: DepartureKind, ago_s: float, *, wrong: bool, **given: Any) -> Departure:
    """A departure whose time was watched."""
    until = NOW - ago_s + 5
    needed = None if wrong else until
    return past(kind, ago_s, until=until, seen_until=until, needed_at=needed, **given)


WATCHED = Departure(
    kind=K.EVICT, model="a", price_s=1.0, at=100.0, until=200.0, seen_until=100.0,
    right_if=("b", "c"), wrong_if=("a", "d"),
)  # fmt: skip


def test_what_is_asked_for_in_its_time_is_noted_once() -> None:
    seen = noted(WATCHED, {"a": 150.0, "d": 140.0, "b": 120.0, "x": 110.0}, at=160.0)
    assert (seen.asked_at, seen.needed_at, seen.seen_until) == (140.0, 120.0, 160.0)
    again = noted(seen, {"a": 190.0, "d": 141.0, "c": 119.0}, at=199.0)
    assert (again.asked_at, again.needed_at, again.seen_until) == (140.0, 120.0, 199.0)
    assert noted(again, {}, at=150.0) == again


@pytest.mark.parametrize(
    ("at", "counts"), [(100.0, False), (100.1, True), (200.0, True), (200.1, False)]
)
def test_only_requests_between_departure_and_end_count(at: float, counts: bool) -> None:
    seen = noted(WATCHED, {"b": at, "d": at}, at=300.0)
    assert seen.seen_until == 200.0
    assert (seen.needed_at, seen.asked_at) == ((at, at) if counts else (None, None))


@pytest.mark.parametrize("kind", [K.QUEUE, K.SPARE, K.EVICT])
def test_it_is_right_if_it_was_needed_and_nobody_missed_what_it_gave_up(
    kind: DepartureKind,
) -> None:
    over = {"kind": kind, "seen_until": 200.0}
    for needed, asked, wrong in (
        (None, None, True),
        (150.0, None, False),
        (None, 150.0, True),
        (150.0, 150.0, True),
    ):
        known = WATCHED.model_copy(update={**over, "needed_at": needed, "asked_at": asked})
        assert was_wrong(known) is wrong


def test_it_is_judged_when_its_time_is_over_or_somebody_asks() -> None:
    unseen = WATCHED.model_copy(update={"needed_at": 150.0, "seen_until": 199.9})
    assert was_wrong(unseen) is None
    assert was_wrong(unseen.model_copy(update={"seen_until": 200.0})) is False
    assert was_wrong(unseen.model_copy(update={"asked_at": 150.0})) is True


def test_a_judgement_never_changes_after_its_time() -> None:
    asked = [{}, {"b": 150.0}, {"a": 150.0}, {"a": 150.0, "b": 150.0}]
    for known in asked:
        over = noted(WATCHED, known, at=200.0)
        verdict = was_wrong(over)
        assert verdict is not None
        for later in (*asked, {"a": 201.0, "b": 201.0, "c": 201.0, "d": 201.0}):
            if later is not known and max(later.values(), default=0.0) <= 200.0:
                continue  # it would have been noted in time
            assert was_wrong(noted(over, later, at=300.0)) is verdict


def test_other_devices_are_not_judged() -> None:
    assert was_wrong(past(K.DEVICE, asked_at=NOW)) is None
    assert was_wrong(past(K.DEVICE, until=NOW, seen_until=NOW)) is None


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


def test_shadows_do_not_stand_and_spend_the_budget() -> None:
    known = with_past(
        past(K.QUEUE, until=NOW + 1, shadow=True, price_s=30.0),
        past(K.SPARE, until=NOW + 1, shadow=True),
    )
    assert held(known, now=NOW) == spared(known, now=NOW) == frozenset()
    assert left_s(K.QUEUE, known, MAY, now=NOW) == 70.0


def test_other_devices_have_no_budget() -> None:
    assert left_s(K.DEVICE, with_past(), MAY, now=NOW) == 0.0
    assert left_s(K.DEVICE, with_past(), policy(departures={K.EVICT: 5.0}), now=NOW) is None


def verdicts(text: str, kind: DepartureKind = K.EVICT) -> tuple[Departure, ...]:
    """Return departures of a kind, the newest first: right, wrong, or not known."""
    return tuple(
        past(kind, 10.0 * place, model=f"m{place}", until=NOW + 9)
        if letter == "?"
        else judged(kind, 10.0 * place, wrong=letter == "w")
        for place, letter in enumerate(text, start=1)
    )


@pytest.mark.parametrize(
    ("text", "trusted"),
    [
        ("", False),
        ("rr", False),
        ("rrr", True),
        ("wwrrr", True),
        ("wwwrrr", False),
        ("wrwrr", True),
        ("wrwrwr", False),
        ("?wwrrr", True),
        ("???rr?r", True),
        ("?????", False),
    ],
)
def test_a_kind_is_trusted_while_three_of_the_last_five_were_right(
    text: str, trusted: bool
) -> None:
    known = [*verdicts("www", K.QUEUE), *verdicts(text)]
    assert is_trusted(K.EVICT, known) is trusted
    assert not is_trusted(K.QUEUE, known)


def test_shadows_earn_trust_as_others_keep_it() -> None:
    shadows = tuple(d.model_copy(update={"shadow": True}) for d in verdicts("rrr"))
    assert is_trusted(K.EVICT, [*shadows])


def test_the_departures_of_one_plan_are_judged_as_one() -> None:
    three = tuple(judged(K.SPARE, 10.0, wrong=False, model=name) for name in "abc")
    assert not is_trusted(K.SPARE, [*three])
    two = tuple(judged(K.SPARE, ago_s, wrong=False) for ago_s in (20.0, 30.0))
    assert is_trusted(K.SPARE, [*three, *two])
    spoilt = (*three[:2], judged(K.SPARE, 10.0, wrong=True, model="c"))
    assert not is_trusted(K.SPARE, [*spoilt, *two])
    assert not is_trusted(K.SPARE, [*reversed(spoilt), *two])


def test_one_plan_that_pays_twice_for_a_model_is_wrong_if_one_eviction_was() -> None:
    before = [judged(K.EVICT, ago_s, wrong=False) for ago_s in (20.0, 30.0)]
    pair = [
        judged(K.EVICT, 10.0, wrong=wrong, model=name, right_if=("new",))
        for name, wrong in (("b", False), ("c", True))
    ]
    assert not is_trusted(K.EVICT, [*pair, *before])
    assert not is_trusted(K.EVICT, [*reversed(pair), *before])
    assert is_trusted(K.EVICT, [pair[0], *before])


def test_a_departure_that_repeats_an_open_one_does_not_count() -> None:
    def right(ago_s: float, name: str = "a", *needed: str) -> Departure:
        return judged(K.EVICT, ago_s, wrong=False, model=name, right_if=needed).model_copy(
            update={"until": NOW - ago_s + 10, "seen_until": NOW - ago_s + 10}
        )

    first = right(100)
    assert not is_trusted(K.EVICT, [right(93), right(97), first])
    assert is_trusted(K.EVICT, [right(80), right(90), first])
    assert is_trusted(K.EVICT, [right(93, "c"), right(97, "b"), first])
    assert not is_trusted(K.EVICT, [right(95, "c", "x"), right(97, "b", "x", "y"), first])
    # What repeats a repetition counts once the first one's time is over.
    assert not is_trusted(K.EVICT, [right(85), right(89), right(95), first])
    assert is_trusted(K.EVICT, [right(79), right(89), right(95), first])


def test_other_devices_need_no_trust() -> None:
    assert is_trusted(K.DEVICE, [])


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


TRUST = tuple(
    judged(kind, 5000.0 + ago, wrong=False)
    for kind in (K.QUEUE, K.EVICT, K.SPARE)
    for ago in (10, 20, 30)
)


def faults(
    *actions: Any, departures: Any, known: Fleet = KNOWN, trust: Any = TRUST, **given: Any
) -> list[str]:
    rules = policy(
        departures=dict.fromkeys(K, 100.0), always_loaded=frozenset({"always"})
    ).model_copy(update=given)
    known = known.model_copy(update={"departures": (*known.departures, *trust)})
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
        ([], now_made(K.DEVICE, "new", price_s=0.0), "device: the plan does not load it"),
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
    known = fleet(loaded("old", "n/g1", gib=60), loaded("other", "n/g0", gib=60))
    assert faults(departures=two, known=known) == [
        "old, other: spare gives up 101 load-seconds; brain.may.spare allows 100 per hour, "
        "100 are left"
    ]
    assert faults(departures=two[:1], known=known) == []
    spent = known.model_copy(update={"departures": (past(K.SPARE, price_s=41.0, shadow=True),)})
    wrong = "gives up 60 load-seconds; brain.may.spare allows 100 per hour, 59 are left"
    assert faults(departures=two[:1], known=spent) == [f"old: spare {wrong}"]
    shadow = two[0].model_copy(update={"shadow": True})
    assert faults(departures=[shadow], known=spent) == [f"old: spare {wrong}"]


def test_a_kind_that_is_not_trusted_may_only_be_recorded() -> None:
    wanted = now_made(K.QUEUE, "new")
    wrong = "new: queue is not trusted: fewer than 3 of the last 5 were right"
    assert faults(departures=[wanted], trust=TRUST[1:]) == [wrong]
    shadow = wanted.model_copy(update={"shadow": True})
    assert faults(departures=[shadow], trust=()) == []
    other = now_made(K.QUEUE, "b").model_copy(update={"shadow": True, "price_s": 0.0})
    crowd = fleet(*KNOWN.models, loaded("b", "n/g0", gib=1))
    assert faults(departures=[other, wanted], trust=(), known=crowd)[-1] == (
        "b, new: queue is not trusted: fewer than 3 of the last 5 were right"
    )


def test_the_plan_does_without_its_shadows() -> None:
    queue, spare, evict = (
        now_made(kind, name).model_copy(update={"shadow": True})
        for kind, name in ((K.QUEUE, "new"), (K.SPARE, "old"), (K.EVICT, "old"))
    )
    assert faults(unload("old"), load("new"), departures=[queue, spare], trust=()) == []
    assert faults(departures=[evict], trust=()) == []
    cheap = evict.model_copy(update={"price_s": 29.0})
    assert faults(departures=[cheap], trust=()) == [
        "old: evict: its price is 29 load-seconds; one load takes 30 s"
    ]


def test_other_devices_may_give_up_nothing() -> None:
    moved = now_made(K.DEVICE, "new", price_s=0.5)
    assert faults(load("new"), departures=[moved], trust=()) == [
        "new: device gives up 0 load-seconds; other devices may give up nothing"
    ]
    free = now_made(K.DEVICE, "new", price_s=0.0)
    assert faults(load("new"), departures=[free], trust=()) == []
