"""What teams used adds up over the last day."""

from __future__ import annotations

from modelium.store import Store
from modelium.store.team_usage import HOUR_S, WINDOW_HOURS
from tests.fakes.clock import FakeClock


def test_what_was_used_adds_up_by_team(store: Store) -> None:
    assert store.team_usage.of_the_last_day() == {}
    store.team_usage.add({"lab": 1.5, "": 4.0})
    store.team_usage.add({"lab": 2.0, "prod": 0.25})
    store.team_usage.add({})
    assert store.team_usage.of_the_last_day() == {"": 4.0, "lab": 3.5, "prod": 0.25}


def test_it_counts_for_a_day(store: Store, clock: FakeClock) -> None:
    store.team_usage.add({"lab": 1.0})
    clock.advance(HOUR_S)
    store.team_usage.add({"lab": 2.0})
    assert store.team_usage.of_the_last_day() == {"lab": 3.0}
    clock.advance((WINDOW_HOURS - 1) * HOUR_S)
    assert store.team_usage.of_the_last_day() == {"lab": 2.0}
    clock.advance(HOUR_S)
    assert store.team_usage.of_the_last_day() == {}


def test_a_clock_that_is_set_back_leaves_no_quota_used_up(store: Store, clock: FakeClock) -> None:
    store.team_usage.add({"lab": 1.0})
    clock.step(-HOUR_S)
    assert store.team_usage.of_the_last_day() == {}


def test_no_plan_becomes_stale_by_it(store: Store) -> None:
    before = store.revision()
    store.team_usage.add({"lab": 1.0})
    assert store.revision() == before
