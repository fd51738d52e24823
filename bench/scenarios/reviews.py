"""Reviews of a fleet in which cards and the time of day show the best answer."""

from __future__ import annotations

from collections.abc import Iterator

from bench.scenarios.scenario import MONDAY_0858, Scenario, away, gone, loads, queued, review
from modelium.models import Priority, Traffic, Untrusted
from tests.fakes.fleets import NOW, loaded, profile


def reviews() -> list[Scenario]:
    """Return reviews that only cards and the time of day tell how to decide."""
    return [
        *_orders(),
        *_prewarms(),
        *_ties(),
    ]


def _orders() -> Iterator[Scenario]:
    """Yield queues of three equal models for one device; by its card, one is urgent."""
    dull = [
        "Nightly batch scoring, starts at 23:00.",
        "Archive model, kept for reproducibility.",
        "Evaluation run, whenever there is room.",
    ]
    for i, urgent in enumerate(
        (
            "Live demo for a customer starts in a few minutes.",
            "Replaces the help desk's model that just failed; users are waiting.",
            "On-call assistant for the incident that is going on now.",
            "Exam proctoring, the exam begins now.",
            "Interactive annotation session of ten people, started already.",
            "Hot-fix of the moderation model; unmoderated posts go live until it runs.",
        )
    ):
        models = [
            queued("a", dull[i % 3]),
            queued("b", dull[(i + 1) % 3]),
            queued("u", urgent),
        ]
        yield review(
            f"order-{i}",
            "order",
            lambda plan: loads(plan)[:1] == ["u"],
            {"order": ["u", "a", "b"]},
            *models,
            gpus=1,
        )


def _prewarms() -> Iterator[Scenario]:
    """Yield fleets on Monday at 8:58 with models that are used from nine on, or not."""
    decoys = [
        ("Runs the weekly report on Saturdays.", "Used in the winter term only, from October on."),
        ("Nightly batch, 02:00.", "Retired; kept for audits."),
        ("Every Friday at 17:00.", "Training sandbox, no schedule."),
    ]
    for i, card in enumerate(
        (
            "Help desk chat, weekdays from 9:00 UTC.",
            "Trading assistant; opens Monday to Friday at 09:00 UTC.",
            "Morning briefing generator, requests arrive at 9 sharp every working day.",
            "Classroom tutor. Lessons: Monday 9:00-12:00 UTC.",
        )
    ):
        first, second = decoys[i % 3]
        yield review(
            f"prewarm-{i}",
            "prewarm",
            lambda plan: loads(plan) == ["desk"],
            {"prewarm": ["desk"]},
            away("x", first),
            away("desk", card),
            away("y", second),
            now=MONDAY_0858,
        )
    for i, (first, second) in enumerate(decoys[:2]):
        yield review(
            f"prewarm-none-{i}",
            "prewarm",
            lambda plan: not loads(plan),
            {"prewarm": []},
            away("x", first),
            away("y", second),
            now=MONDAY_0858,
        )


def _ties() -> Iterator[Scenario]:
    """Yield two idle models of about the same value; an important one needs the memory of one."""
    pairs = [
        ("Customer chat; evenings are busiest.", "Evaluation finished, results are published."),
        ("Used by three teams all day.", "One-off migration, completed."),
        ("On-call runbook assistant.", "Hackathon entry of last month."),
        ("Moderation, must answer quickly.", "Superseded by version 3; kept for comparison."),
        ("Payment support.", "Benchmark baseline; runs are over."),
    ]
    for i, (useful, done) in enumerate(pairs):
        # The rules would evict `useful`, which was used a tenth less.
        first, second = (
            loaded(
                name,
                f"n/g{place}",
                gib=60,
                profile=profile(60, card=Untrusted(text=card)),
                traffic=Traffic(
                    completed=100,
                    first_request_at=NOW - 50_000,
                    last_request_at=NOW - 900,
                    rates=(0.0, rate, rate, rate),
                ),
            )
            for place, (name, card, rate) in enumerate(
                (("useful", useful, 0.0010), ("done", done, 0.0011))
            )
        )
        yield review(
            f"tie-{i}",
            "tie",
            lambda plan: gone(plan) == ["done"],
            {"keep": ["useful"], "evict": ["done"]},
            first,
            second,
            queued("vip", "Production.", 60, priority=Priority.HIGH),
            queued("later", "Whenever there is room.", 60),
        )
