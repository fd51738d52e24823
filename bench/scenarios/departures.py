"""Departures from the rules that are worth their price, and some that are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from agents.rules.planner import RulePlanner
from bench.scenarios.scenario import (
    BUSY,
    MONDAY_0858,
    Scenario,
    away,
    gone,
    loads,
    newcomer,
    queued,
    review,
    single,
)
from modelium.models import Load, Model, Plan, Queue, Traffic, Untrusted
from tests.fakes.fleets import NOW, estimate, loaded, profile

RULES = RulePlanner(estimate=estimate)
IDLED = Traffic(completed=9, first_request_at=NOW - 90_000, last_request_at=NOW - 5000)
USED = Traffic(
    completed=400,
    first_request_at=NOW - 90_000,
    last_request_at=NOW - 120,
    qps=0.02,
    qps_last_hour=0.02,
    rates=(0.01, 0.02, 0.02, 0.02),
)


def departures() -> list[Scenario]:
    """Return departures from the rules, worth their price or not."""
    return [
        *_devices(),
        *_waiting(),
        *_held(),
        *_paid(),
        *_made_room(),
        *_spared(),
        *_not_worth_it(),
        *_shadows(),
    ]


def _carded(name: str, card: str, *devices: str, gib: float = 30, **given: Any) -> Model:
    return loaded(name, *devices, gib=gib, profile=profile(gib, card=Untrusted(text=card)), **given)


def _own(plan: Plan) -> Any:
    return next((a for a in plan.actions if a.model == "new"), None)


def _waits(plan: Plan) -> bool:
    return isinstance(_own(plan), Queue) and not gone(plan)


def _devices() -> Iterator[Scenario]:
    """Yield new models whose card speaks against the tightest device."""

    def on(device: str) -> Callable[[Plan], bool]:
        return lambda plan: isinstance(own := _own(plan), Load) and own.devices == (device,)

    cards = [
        "Voice assistant: the first token must come within 100 ms. Do not share a busy GPU.",
        "Interactive autocomplete; latency matters more than anything else.",
        "Real-time moderation of a live stream; slow answers are useless.",
    ]
    for i, card in enumerate(cards):
        yield single(
            f"device-busy-{i}",
            "device",
            newcomer(card),
            on("n/g1"),
            {"placement": "n/g1"},
            _carded("batch", "Batch scoring, saturates its GPU.", "n/g0", gib=45, traffic=BUSY),
            _carded("wiki", "Internal wiki, seldom used.", "n/g1"),
            utilization=(0.98, 0.03),
        )
    for i, card in enumerate(
        (
            "Standby of `chat`: must not be on the same GPU, so that one failure spares the other.",
            "Second copy of `chat` for failover; keep it on another device than `chat`.",
            "Do not put it beside `chat`: both peak at the same time and slow each other down.",
        )
    ):
        yield single(
            f"device-apart-{i}",
            "device",
            newcomer(card),
            on("n/g1"),
            {"placement": "n/g1"},
            _carded("chat", "Customer chat.", "n/g0", gib=45, traffic=USED),
            _carded("wiki", "Internal wiki, seldom used.", "n/g1"),
            utilization=(0.5, 0.4),
        )


def _waiting() -> Iterator[Scenario]:
    """Yield new models that nobody needs before long."""
    for i, card in enumerate(
        (
            "Nightly batch scoring; runs at 02:00 UTC, nothing before.",
            "Archive copy for the auditors. Nobody sends it requests.",
            "Release candidate: goes live next month. Do not load it before.",
            "Checkpoint of a training run that is still going on; not for serving.",
            "Weekly report, Saturdays only. Today is Friday.",
            "Retired; replaced by version 7. Kept for comparison.",
        )
    ):
        yield single(
            f"wait-{i}", "wait", newcomer(card, gib=30), _waits, {"placement": "queue"},
            _carded("chat", "Customer chat.", "n/g0", traffic=USED),
        )  # fmt: skip


def _held() -> Iterator[Scenario]:
    """Yield queued models that fit now; one of them had better wait."""
    for i, card in enumerate(
        (
            "Nightly batch, 02:00 UTC.",
            "Not before its data set is ready, on Monday.",
            "Archive, for the record.",
            "Only for the course in autumn.",
        )
    ):
        scenario = review(
            f"hold-{i}",
            "hold",
            lambda plan: loads(plan) == ["u"],
            {"hold": ["later"]},
            queued("u", "Interactive annotation session, started already.", 20),
            queued("later", card, 40),
        )
        yield replace(scenario, departs=True)


def _paid() -> Iterator[Scenario]:
    """Yield new models that are needed now where another one has had its time."""
    pairs = [
        ("Production model behind the checkout; traffic is being switched to it now.",
         "Finished experiment; results are published."),
        ("Hot-fix of the moderation model; unmoderated posts go live until it runs.",
         "Hackathon entry of last month."),
        ("On-call assistant for the incident that is going on.", "Evaluation run, completed."),
        ("Exam proctoring, the exam begins in a minute.", "One-off migration, done."),
    ]  # fmt: skip
    for i, (card, done) in enumerate(pairs):
        yield single(
            f"pay-{i}",
            "pay",
            newcomer(card, gib=50),
            lambda plan: loads(plan) == ["new"] and gone(plan) == ["old"],
            {"placement": "n/g1 evicting old"},
            _carded("busy", "Customer chat.", "n/g0", gib=60, traffic=BUSY),
            _carded("old", done, "n/g1", gib=60, idle_s=3000),
        )


def _at_work(name: str, card: str, idle_s: float, **given: Any) -> Model:
    """Return a model that is loaded at 8:58 on Monday, requested ``idle_s`` before."""
    traffic = Traffic(
        completed=90,
        first_request_at=MONDAY_0858 - 90_000,
        last_request_at=MONDAY_0858 - idle_s,
        rates=(0.0, 0.0, 0.001, 0.001),
    )
    return _carded(name, card, "n/g0", **{"gib": 60, "traffic": traffic, **given})


def _made_room() -> Iterator[Scenario]:
    """Yield full devices on Monday at 8:58; a model is needed from nine on."""
    for i, (card, done) in enumerate(
        (
            ("Help desk chat, weekdays from 9:00 UTC.", "Nightly batch, done until 02:00."),
            ("Trading assistant; the market opens at 09:00 UTC.", "Weekly report, Saturdays."),
            ("Classroom tutor. Lessons: Monday 9:00-12:00 UTC.", "Evaluation, completed."),
            ("Morning briefing, everybody reads it at 9 sharp.", "Archive for the auditors."),
            ("Stand-up summariser, Mondays 9:00.", "Demo of last week."),
        )
    ):
        scenario = review(
            f"room-{i}",
            "room",
            lambda plan: loads(plan) == ["desk"] and gone(plan) == ["done"],
            {"make_room": ["desk on n/g0 evicting done"]},
            away("desk", card, gib=60),
            _at_work("done", done, 2500),
            now=MONDAY_0858,
            gpus=1,
        )
        yield replace(scenario, departs=True)


def _spared() -> Iterator[Scenario]:
    """Yield models that idled out on Monday at 8:58, just before they are needed again."""
    for i, card in enumerate(
        (
            "Help desk chat, weekdays from 9:00 UTC. Takes twelve minutes to load.",
            "Exam proctoring; the exam begins on Monday at 9:00 UTC.",
            "Trading assistant; the market opens at 09:00 UTC.",
            "Classroom tutor. Lessons: Monday 9:00-12:00 UTC.",
            "Surgery planning, first case at nine every weekday.",
        )
    ):
        scenario = review(
            f"spare-{i}",
            "spare",
            lambda plan: not gone(plan),
            {"spare": ["desk"]},
            _at_work("desk", card, 5000),
            now=MONDAY_0858,
            gpus=1,
        )
        yield replace(scenario, departs=True)


def _not_worth_it() -> Iterator[Scenario]:
    """Yield departures that are possible, and wrong."""
    for i, card in enumerate(
        ("Experiment of an intern.", "Course exercise.", "Checkpoint, step 400 of 100,000.")
    ):
        scenario = single(
            f"keep-{i}", "not worth it", newcomer(card, gib=50), _waits, {"placement": "queue"},
            _carded("chat", "Customer chat, all day.", "n/g0", gib=60, traffic=USED),
            _carded("desk", "Help desk, all day.", "n/g1", gib=60, traffic=USED),
        )  # fmt: skip
        yield replace(scenario, departs=False)
    for i, card in enumerate(("Users are waiting for it.", "Live demo in a few minutes.")):
        yield review(
            f"load-{i}", "not worth it", lambda plan: sorted(loads(plan)) == ["u", "v"],
            {"hold": []}, queued("u", card, 20), queued("v", "Production.", 20),
        )  # fmt: skip
    for i, card in enumerate(("Evaluation finished.", "Retired.", "Demo of last week.")):
        yield review(
            f"go-{i}", "not worth it", lambda plan: gone(plan) == ["done"], {"spare": []},
            _at_work("done", card, 5000), now=MONDAY_0858, gpus=1,
        )  # fmt: skip
    for i, card in enumerate(("Weekly report, Saturdays.", "Retired; kept for audits.")):
        yield review(
            f"stay-{i}", "not worth it", lambda plan: not plan.actions, {"make_room": []},
            away("x", card, gib=60), _at_work("chat", "Customer chat, all day.", 60),
            now=MONDAY_0858, gpus=1,
        )  # fmt: skip


def _shadows() -> Iterator[Scenario]:
    """Yield departures that are worth it, of an LLM that is not trusted: the rules' plan stands."""
    for of_kind in (_waiting, _held, _paid, _made_room, _spared):
        scenario = next(of_kind())
        rules = RULES.plan(scenario.question, scenario.fleet, scenario.policy)

        def stands(plan: Plan, rules: Plan = rules) -> bool:
            return plan.actions == rules.actions and all(d.shadow for d in plan.departures)

        yield replace(
            scenario,
            name=f"shadow-{scenario.name}",
            kind="shadow",
            best=stands,
            judgement=False,
            departs=False,
            trusted=False,
        )
