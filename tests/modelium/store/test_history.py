"""History in the store: memory, traffic by the hour, the request log and its bounds."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelium.lifecycle import ModelState
from modelium.models import Load, MeasuredLoad, Plan, RuntimeName, Traffic, Trigger
from modelium.store import Store, history
from modelium.store.history import DAY_S, HOUR_S, Rollup
from modelium.traffic.request_log import MOST_HELD, LoggedRequest, RequestLog
from tests.modelium.store.test_store import register

HOUR = 480_000


class Now:
    def __init__(self) -> None:
        self.at = float(HOUR * HOUR_S)

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def store(url: str, now: Now) -> Iterator[Store]:
    opened = Store.open(url, now=now)
    yield opened
    opened.close()


def line(
    at: float, model: str = "m", tokens: tuple[int | None, int | None] = (3, 5)
) -> LoggedRequest:
    return LoggedRequest(at, model, *tokens, 0.25)


def test_traffic_is_rolled_up_by_the_hour_over_restarts(url: str, store: Store, now: Now) -> None:
    store.history.record_traffic({"m": Traffic(completed=10, failed=1, last_request_at=1.0)})
    now.at += 60
    store.history.record_traffic(
        {"m": Traffic(completed=14, failed=1, direct=2, last_request_at=2)}
    )
    now.at += HOUR_S
    store.close()
    again = Store.open(url, now=now)
    again.history.record_traffic(
        {"m": Traffic(completed=15, failed=2, direct=2, last_request_at=3)}
    )
    hours = again.history.rollups()
    assert hours == [
        Rollup(
            model="m", at=HOUR * HOUR_S, requests=15, failed=1, direct=2,
            prompt_tokens=0, generated_tokens=0,
        ),
        Rollup(
            model="m", at=(HOUR + 1) * HOUR_S, requests=2, failed=1, direct=0,
            prompt_tokens=0, generated_tokens=0,
        ),
    ]  # fmt: skip
    assert again.history.rollups(model="other") == []
    assert len(again.history.rollups(since=now.at)) == 1
    again.close()


def test_traffic_that_only_decayed_is_not_written(store: Store, now: Now) -> None:
    store.history.record_traffic({"m": Traffic(completed=1, qps=0.5, last_request_at=1.0)})
    store.history.record_traffic({"m": Traffic(completed=1, qps=0.1, last_request_at=1.0)})
    assert store.history.traffic()["m"].qps == 0.5


def test_the_last_hours_end_with_the_present_one(store: Store, now: Now) -> None:
    for completed, later_s in ((4, 2 * HOUR_S), (5, HOUR_S), (5, HOUR_S), (12, 0)):
        seen = Traffic(completed=completed, last_request_at=now.at)
        store.history.record_traffic({"m": seen, "never": Traffic()})
        now.at += later_s
    assert store.history.by_hour(5) == {"m": (4, 0, 1, 0, 7)}
    assert store.history.by_hour(2) == {"m": (0, 7)}


def test_one_snapshot_recorded_by_many_threads_is_counted_once(store: Store) -> None:
    seen = {"m": Traffic(completed=10, last_request_at=1.0)}
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(store.history.record_traffic, [seen] * 8))
    assert [r.requests for r in store.history.rollups()] == [10]


def test_the_request_log_comes_back_in_order_and_counts_tokens(store: Store, now: Now) -> None:
    given = [line(now.at + 2), line(now.at + 1, "n", (None, 7)), line(now.at + 3)]
    store.history.log(given)
    store.history.log([])
    assert store.history.requests() == sorted(given)
    assert store.history.requests(since=now.at + 2.5) == [given[2]]
    tokens = {r.model: (r.prompt_tokens, r.generated_tokens) for r in store.history.rollups()}
    assert tokens == {"m": (6, 10), "n": (0, 7)}


def test_old_hours_and_lines_are_pruned(store: Store, now: Now) -> None:
    store.history.record_traffic({"m": Traffic(completed=1, last_request_at=1.0)})
    store.history.log([line(now.at)])
    now.at += 2 * DAY_S
    store.history.record_traffic({"m": Traffic(completed=2, last_request_at=2.0)})
    store.history.log([line(now.at)])
    store.history.prune(rollup_days=1.0, request_days=1.0)
    assert [r.at for r in store.history.rollups()] == [now.at // HOUR_S * HOUR_S]
    assert [x.at for x in store.history.requests()] == [now.at]


def test_the_request_log_is_bounded(
    store: Store, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST_REQUESTS", 3)
    store.history.log([line(now.at + i) for i in range(10)])
    store.history.prune(rollup_days=1.0, request_days=1.0)
    assert [x.at - now.at for x in store.history.requests()] == [7, 8, 9]


def test_measurements_show_in_views_of_all_processes_and_make_no_plan_stale(
    url: str, store: Store
) -> None:
    register(store, "m")
    action = Load(
        model="m", runtime=RuntimeName.VLLM, devices=("n/a",), reserve={"n/a": 9}, reason="asked"
    )
    plan = Plan(
        author="rules", trigger=Trigger.OPERATOR, actions=(action,), revision=store.revision()
    )
    store.accept(plan, snapshot_digest="d", trace={})
    other = Store.open(url, now=lambda: 0.0)
    assert other.view()[2][0].resident_bytes == 0
    revision = store.view()[0]
    load = MeasuredLoad(
        runtime=RuntimeName.VLLM, device_kind="H100", settings_digest="d",
        per_device_bytes=7, load_s=1.0, at=0.0,
    )  # fmt: skip
    store.history.record_memory({("m", "n/a"): 7}, {"m": load})
    store.history.record_memory({}, {"m": load.model_copy(update={"per_device_bytes": 8})})
    for one in (store, other):
        view = one.view()
        assert view[0] == revision
        assert view[2][0].resident_bytes == 7
        assert [m.per_device_bytes for m in view[1][0].measured] == [8]
    other.close()


def test_a_change_by_another_process_shows_at_once(url: str, store: Store) -> None:
    register(store, "m")
    assert store.view()[1][0].state is ModelState.ANALYZED
    other = Store.open(url, now=lambda: 0.0)
    other.states.requeue("m", reason="wanted")
    assert store.view()[1][0].state is ModelState.QUEUED
    other.close()


def test_lines_beyond_the_bound_are_dropped_and_counted() -> None:
    log = RequestLog()
    for _ in range(MOST_HELD + 5):
        log.add(line(1.0))
    taken = log.take()
    assert (len(taken), log.dropped) == (MOST_HELD, 5)
    log.add(line(2.0))
    log.restore(taken)
    assert (log.take(), log.dropped) == (taken, 6)
    assert log.take() == []


def test_lines_without_tokens_are_logged_and_not_rolled_up(store: Store, now: Now) -> None:
    given = [
        line(now.at, "none", (None, None)),
        line(now.at, "read", (3, None)),
        line(now.at, "made", (None, 4)),
    ]
    store.history.log(given)
    found = {r.model: (r.prompt_tokens, r.generated_tokens) for r in store.history.rollups()}
    assert found == {"read": (3, 0), "made": (0, 4)}
    assert [r.at for r in store.history.rollups()] == [now.at, now.at]
    assert len(store.history.requests(since=now.at)) == 3
    assert store.history.requests(since=now.at + 1) == []


def test_tokens_belong_to_the_hour_of_their_request(store: Store, now: Now) -> None:
    store.history.log([line(now.at + HOUR_S - 1), line(now.at + HOUR_S), line(now.at + HOUR_S)])
    assert [(r.at - now.at, r.prompt_tokens) for r in store.history.rollups()] == [
        (0, 3), (HOUR_S, 6),
    ]  # fmt: skip


def test_rows_are_kept_for_their_days_and_no_longer(store: Store, now: Now) -> None:
    began = now.at
    for days in range(4):
        now.at = began + days * DAY_S
        store.history.log([line(now.at)])
    now.at = began + 3 * DAY_S
    store.history.prune(rollup_days=2.0, request_days=1.0)
    assert [(r.at - began) / DAY_S for r in store.history.rollups()] == [1, 2, 3]
    assert [(x.at - began) / DAY_S for x in store.history.requests()] == [2, 3]


def test_nothing_is_counted_backwards(store: Store, now: Now) -> None:
    """As where the counters of a runtime begin anew."""
    store.history.record_traffic({"m": Traffic(completed=5, failed=3, direct=4)})
    store.history.record_traffic({"m": Traffic(completed=9, failed=1, direct=2)})
    store.history.record_traffic({"m": Traffic(completed=1, failed=1, direct=2)})
    (found,) = store.history.rollups()
    assert (found.requests, found.failed, found.direct) == (10, 3, 4)


@pytest.mark.parametrize("field", ["completed", "failed", "direct", "last_request_at"])
def test_whatever_a_request_changes_is_written(store: Store, field: str) -> None:
    store.history.record_traffic({"m": Traffic(qps=1.0)})
    store.history.record_traffic({"m": Traffic.model_validate({"qps": 2.0, field: 7})})
    seen = store.history.traffic()["m"]
    assert (seen.qps, getattr(seen, field)) == (2.0, 7)
