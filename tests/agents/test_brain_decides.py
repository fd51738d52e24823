"""An LLM with authority: where it departs from the rules, what is refused, and what stands."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.lifecycle import ModelState
from modelium.models import (
    Departure,
    DepartureKind,
    EvictionCause,
    Fleet,
    Load,
    Model,
    Plan,
    Queue,
    Traffic,
    Unload,
)
from modelium.models.advice import Advice, Spot
from modelium.policy import Policy
from tests.agents.advising import (
    INGEST,
    REVIEW,
    RULES,
    Build,
    newcomer,
    said,
    short_contexts,
    waiting,
)
from tests.fakes.fleets import NOW, loaded, model
from tests.fakes.fleets import fleet as strangers
from tests.fakes.llm import Body, calls
from tests.fakes.trust import earned

pytestmark = pytest.mark.slow

K = DepartureKind
IDLED = Traffic(completed=3, first_request_at=NOW - 9000, last_request_at=NOW - 5000)


def may(*kinds: DepartureKind, load_seconds: float = 300.0, **given: Any) -> Policy:
    return short_contexts(departures=dict.fromkeys(kinds or K, load_seconds), **given)


def fleet(*models: Model, **given: Any) -> Fleet:
    """A fleet in which the LLM has earned trust, in every kind."""
    return strangers(*models, **{"departures": earned(), **given})


def departed(plan: Plan) -> list[tuple[str, str, float]]:
    return [(d.kind.value, d.model, d.price_s) for d in plan.departures]


def answers(**chosen: Any) -> Any:
    return lambda body: calls("decide", {"reason": "because", **chosen})


def offered(body: Body, name: str) -> Any:
    tool = next(t for t in body["tools"] if t["function"]["name"] == "decide")
    form = tool["function"]["parameters"]["properties"].get(name)
    return form and form.get("items", form)["enum"]


async def test_it_chooses_another_device_for_a_new_model(house: Build) -> None:
    known = fleet(newcomer(), loaded("b", "n/g0", gib=40))
    home = await house(answers(placement="n/g1"))
    plan, _ = await home.answer(INGEST, known, may())
    (load,) = plan.actions
    assert isinstance(load, Load) and load.devices == ("n/g1",)
    assert (plan.author, plan.fallback, departed(plan)) == ("llm", "", [("device", "new", 0.0)])
    assert offered(home.endpoint.seen[0], "placement") == ["n/g0", "n/g1", "queue"]
    assert plan.reason.endswith("(LLM: because)")


async def test_it_has_a_new_model_wait_that_the_rules_would_load(house: Build) -> None:
    home = await house(answers(placement="queue"))
    plan, _ = await home.answer(INGEST, fleet(newcomer()), may())
    assert [type(a) for a in plan.actions] == [Queue]
    assert departed(plan) == [("queue", "new", 10.0)]


async def test_it_pays_an_eviction_for_a_new_model(house: Build) -> None:
    known = fleet(newcomer(), loaded("b", "n/g0", gib=70), loaded("c", "n/g1", gib=70))
    assert [type(a) for a in RULES.plan(INGEST, known, may()).actions] == [Queue]
    home = await house(answers(placement="n/g1 evicting c"))
    plan, _ = await home.answer(INGEST, known, may())
    unload, load = plan.actions
    assert isinstance(unload, Unload) and isinstance(load, Load)
    assert (unload.model, unload.cause, load.devices) == ("c", EvictionCause.REVIEW, ("n/g1",))
    assert departed(plan) == [("evict", "c", 30.0)]


async def test_what_the_rules_do_anyway_is_no_departure(house: Build) -> None:
    home = await house(answers(placement="n/g0"))
    plan, _ = await home.answer(INGEST, fleet(newcomer(), loaded("b", "n/g0", gib=40)), may())
    assert (plan.author, plan.departures) == ("llm", ())


@pytest.mark.parametrize(
    ("rules", "placements"),
    [
        (short_contexts(), None),
        (may(K.DEVICE), ["n/g0", "n/g1"]),
        (may(K.QUEUE), ["n/g0", "queue"]),
        (may(K.QUEUE, load_seconds=9.0), None),
        (may(K.DEVICE, load_seconds=0.0), ["n/g0", "n/g1"]),
    ],
    ids=["advise", "device", "queue", "too dear", "free"],
)
async def test_only_what_the_operator_allows_is_offered(
    house: Build, rules: Policy, placements: Any
) -> None:
    home = await house(answers())
    await home.answer(INGEST, fleet(newcomer(), loaded("b", "n/g0", gib=40)), rules)
    assert offered(home.endpoint.seen[0], "placement") == placements


async def test_what_was_not_offered_is_returned_with_what_is_allowed(house: Build) -> None:
    home = await house(answers(placement="n/g1 evicting pinned"))
    known = fleet(newcomer(), loaded("b", "n/g0", gib=40), loaded("pinned", "n/g1", pinned=True))
    plan, _ = await home.answer(INGEST, known, may())
    assert plan.fallback.startswith("violations: placement: 'n/g1 evicting pinned' is not allowed")
    assert plan.actions == RULES.plan(INGEST, known, may()).actions and plan.departures == ()
    assert "one of: n/g0, n/g1, queue" in said(home.endpoint.seen[1])


async def test_a_place_that_does_not_hold_the_chosen_settings_is_returned_once(
    house: Build,
) -> None:
    tries = [
        {"placement": "n/g1", "runtime": "ray_serve"},
        {"placement": "n/g1", "runtime": "vllm"},
    ]
    home = await house(
        lambda body: calls("decide", {"reason": "", **tries[len(home.endpoint.seen) - 1]})
    )
    # With Ray Serve it needs 18 GiB, which n/g1 does not have.
    held = [loaded(f"m{i}", f"n/g{i}", gib=gib) for i, gib in enumerate((61, 60, 40))]
    known = fleet(newcomer(), *held, gpus=3)
    assert RULES.plan(INGEST, known, may(K.DEVICE)).loads[0].devices == ("n/g0",)
    plan, _ = await home.answer(INGEST, known, may(K.DEVICE))
    assert (plan.loads[0].devices, plan.fallback) == (("n/g1",), "")
    assert departed(plan) == [("device", "new", 0.0)]
    assert "new: ray_serve does not fit now" in said(home.endpoint.seen[1])


async def test_in_a_review_it_leaves_a_model_queued(house: Build) -> None:
    known = fleet(waiting("a", 10), waiting("b", 20))
    home = await house(answers(hold=["b"]))
    plan, _ = await home.answer(REVIEW, known, may())
    assert [a.model for a in plan.actions] == ["a"]
    assert departed(plan) == [("queue", "b", 20.0)]


async def test_in_a_review_it_spares_an_idle_model(house: Build) -> None:
    known = fleet(loaded("idle", "n/g0", traffic=IDLED))
    home = await house(answers(spare=["idle"]))
    plan, _ = await home.answer(REVIEW, known, may())
    assert (plan.actions, departed(plan)) == ((), [("spare", "idle", 0.0)])
    assert [a.model for a in RULES.plan(REVIEW, known, may()).actions] == ["idle"]


async def test_in_a_review_it_pays_for_a_model_that_is_needed_soon(house: Build) -> None:
    known = fleet(
        model("desk", 60, state=ModelState.UNLOADED), loaded("batch", "n/g0", gib=60), gpus=1
    )
    home = await house(answers(make_room=["desk on n/g0 evicting batch"]))
    plan, _ = await home.answer(REVIEW, known, may())
    assert [(a.action, a.model) for a in plan.actions] == [("unload", "batch"), ("load", "desk")]
    assert departed(plan) == [("evict", "batch", 90.0)]


async def test_in_a_review_it_loads_a_queued_model_elsewhere(house: Build) -> None:
    known = fleet(waiting("a", 10), loaded("b", "n/g0", gib=40))
    home = await house(answers(place=["a on n/g1"]))
    plan, _ = await home.answer(REVIEW, known, may())
    assert plan.loads[0].devices == ("n/g1",)
    assert departed(plan) == [("device", "a", 0.0)]


async def test_what_is_not_trusted_is_offered_and_only_recorded(house: Build) -> None:
    known = strangers(newcomer())
    home = await house(answers(placement="queue"))
    plan, _ = await home.answer(INGEST, known, may())
    assert offered(home.endpoint.seen[0], "placement") == ["n/g0", "n/g1", "queue"]
    assert plan.actions == RULES.plan(INGEST, known, may()).actions
    assert departed(plan) == [("queue", "new", 10.0)] and plan.departures[0].shadow
    assert (plan.author, plan.fallback) == ("llm", "")


async def test_a_shadow_is_checked_as_a_departure_that_is_carried_out(house: Build) -> None:
    known = strangers(waiting("a", 40), waiting("b", 30))
    home = await house(answers(hold=["a", "b"]))
    plan, _ = await home.answer(REVIEW, known, may(load_seconds=60.0))
    assert plan.fallback.startswith("violations: a, b: queue gives up 70 load-seconds")
    assert plan.departures == ()


async def test_of_two_kinds_the_trusted_one_is_carried_out(house: Build) -> None:
    known = strangers(
        model("desk", 60, state=ModelState.UNLOADED),
        waiting("later", 5),
        loaded("batch", "n/g0", gib=60),
        gpus=1,
        departures=earned(K.QUEUE),
    )
    home = await house(answers(hold=["later"], make_room=["desk on n/g0 evicting batch"]))
    plan, _ = await home.answer(REVIEW, known, may())
    assert plan.actions == ()
    assert [(d.kind, d.model, d.shadow) for d in plan.departures] == [
        (K.QUEUE, "later", False),
        (K.EVICT, "batch", True),
    ]
    assert plan.departures[1].right_if == ("desk",)
    assert plan.departures[1].wrong_if == ("batch",)


async def test_what_leans_on_a_shadow_is_not_carried_out_either(house: Build) -> None:
    """`next` fits only after the eviction that is not made."""
    known = strangers(
        model("desk", 20, state=ModelState.UNLOADED),
        model("next", 20, state=ModelState.UNLOADED),
        loaded("batch", "n/g0", gib=60),
        gpus=1,
    )
    home = await house(answers())
    advice = Advice(
        spots={"desk": Spot(devices=("n/g0",), evicts=("batch",))}, prewarm=("desk", "next")
    )
    plan = await home.brain.decide(REVIEW, known, may(), advice)
    assert (plan.fallback, plan.actions) == ("", ())
    assert [(d.kind, d.shadow) for d in plan.departures] == [(K.EVICT, True)]


async def test_departures_that_are_dear_together_are_repaired(house: Build) -> None:
    tries: list[list[str]] = [["a", "b"], ["b"]]
    home = await house(
        lambda body: calls("decide", {"reason": "", "hold": tries[len(home.endpoint.seen) - 1]})
    )
    known = fleet(waiting("a", 40), waiting("b", 30))
    right = Departure(kind=K.QUEUE, model="x", price_s=9.0, at=NOW - 4000, until=NOW - 3400)
    known = known.model_copy(update={"departures": (right,)})
    plan, _ = await home.answer(REVIEW, known, may(load_seconds=60.0))
    assert departed(plan) == [("queue", "b", 30.0)]
    wrong = "a, b: queue gives up 70 load-seconds; brain.may.queue allows 60 per hour, 60 are left"
    assert wrong in said(home.endpoint.seen[1])


async def test_what_requests_wait_for_is_never_its_affair(house: Build) -> None:
    known = fleet(
        waiting("asked", 60, traffic=Traffic(pending=1)),
        waiting("later", 5),
        loaded("idle", "n/g0", gib=60, traffic=IDLED),
        loaded("busy", "n/g1", gib=60, traffic=Traffic(in_flight=1)),
    )
    home = await house(answers(spare=["idle"], hold=["asked"]))
    plan, _ = await home.answer(REVIEW, known, may())
    form = home.endpoint.seen[0]
    assert offered(form, "hold") == ["later"]
    assert offered(form, "spare") is None
    assert [a.model for a in plan.loads] == ["asked", "later"]


async def test_authority_that_changed_meanwhile_leaves_the_rules(house: Build) -> None:
    known = fleet(newcomer(), loaded("b", "n/g0", gib=40))
    home = await house(answers(placement="queue"))
    advice = await home.brain.advise(INGEST, known, may())
    spent = Departure(kind=K.QUEUE, model="x", price_s=295.0, at=NOW - 9, until=NOW)
    later = known.model_copy(update={"departures": (spent,)})
    plan = await home.brain.decide(INGEST, later, may(), advice)
    assert plan.fallback.startswith("stale-advice: new: queue gives up 10 load-seconds")
    assert plan.loads[0].devices == ("n/g0",) and plan.departures == ()
    revoked = await home.brain.decide(INGEST, known, short_contexts(), advice)
    assert revoked.fallback.startswith("stale-advice: ")
    assert revoked.loads[0].devices == ("n/g0",)
