"""Departures by which an LLM has earned trust."""

from __future__ import annotations

from modelium.models import Departure, DepartureKind, Plan, Trigger
from modelium.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.fleets import NOW

AGO_S = 5000.0
"""Since when none was made: those of the last hour count for the budget."""


TAKES_S = AGO_S + 120
"""How long it takes to `earn`."""


def earned(*kinds: DepartureKind, now: float = NOW) -> tuple[Departure, ...]:
    """Return three right departures of each of ``kinds`` (none: all)."""
    return tuple(
        Departure(
            kind=kind,
            model="x",
            shadow=True,
            price_s=9.0,
            at=at,
            until=at + 60,
            right_if=("y",),
            seen_until=at + 60,
            needed_at=at + 59,
        )
        for at in (now - AGO_S, now - AGO_S - 60, now - AGO_S - 120)
        for kind in sorted(kinds or DepartureKind)
    )


def earn(store: Store, clock: FakeClock, *kinds: DepartureKind) -> None:
    """Have the store hold such as `earned` returns; this takes `TAKES_S` of ``clock``."""
    for _ in range(3):
        at = clock.time()
        made = tuple(
            Departure(kind=k, model="x", shadow=True, price_s=9.0, until=at + 60, right_if=("y",))
            for k in kinds or DepartureKind
        )
        plan = Plan(
            author="llm", trigger=Trigger.REVIEW, departures=made, revision=store.revision()
        )
        store.accept(plan, snapshot_digest="", trace={})
        clock.advance(60.0)
        store.departures.note_requests({"y": at + 59}, since=at, at=clock.time())
    clock.advance(AGO_S - 60)
