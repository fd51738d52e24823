"""The figures of an LLM's departures, by kind."""

from __future__ import annotations

from modelium.models import Departure, DepartureKind
from modelium.outcomes.trust import KindFigures, by_kind
from modelium.policy.departures import REMEMBERED_S
from tests.fakes.fleets import NOW
from tests.fakes.trust import earned

K = DepartureKind


def figures(kind: K, **given: int | bool) -> KindFigures:
    none = {"carried_out": 0, "shadows": 0, "right": 0, "wrong": 0, "trusted": False}
    return KindFigures(kind=kind, **{**none, **given})


def test_each_kind_is_counted_by_itself_and_told_whether_it_is_trusted() -> None:
    past = earned(K.QUEUE)
    late = Departure(kind=K.QUEUE, model="a", price_s=1.0, at=NOW - 60, until=NOW + 9)
    wrong = late.model_copy(update={"at": NOW - 70, "asked_at": NOW - 65, "kind": K.SPARE})
    found = by_kind((late, wrong, *past), (K.QUEUE, K.SPARE), since=0.0, now=NOW)
    assert found == (
        figures(K.QUEUE, carried_out=1, shadows=3, right=3, trusted=True),
        figures(K.SPARE, carried_out=1, wrong=1),
    )


def test_a_kind_is_trusted_by_the_last_week_whatever_time_is_told_of() -> None:
    past = earned(K.QUEUE)
    assert by_kind(past, [K.QUEUE], since=NOW - 60, now=NOW) == (figures(K.QUEUE, trusted=True),)
    assert by_kind(past, [K.QUEUE], since=past[1].at, now=past[2].at + REMEMBERED_S) == (
        figures(K.QUEUE, shadows=1, right=1),
    )
