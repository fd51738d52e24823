"""What those who wait are told."""

from __future__ import annotations

import pytest

from modelium.lifecycle import ModelState
from modelium.models import Fleet, MeasuredLoad, Model, RuntimeName, Traffic
from modelium.models.load_time import load_seconds
from modelium.policy.backoff import LONGEST_PAUSE_S
from modelium.routing.wait_estimate import WaitEstimate, estimate_wait
from tests.fakes.fleets import NOW, loaded, model
from tests.fakes.node_fleets import node, over

WAITED_FOR = Traffic(pending=1)


def known(name: str, state: ModelState, load_s: float, **given: object) -> Model:
    """A model whose last load took ``load_s``."""
    measured = MeasuredLoad(
        runtime=RuntimeName.VLLM,
        device_kind="H100",
        settings_digest="",
        per_device_bytes=1,
        load_s=load_s,
        at=1.0,
    )
    return model(name, state=state, measured=(measured,), **given)


def fleet(*models: Model) -> Fleet:
    return Fleet(at=NOW, revision=1, models=models)


def test_a_load_under_way_takes_what_is_left_of_the_last_one() -> None:
    coming = known("m", ModelState.LOADING, 60.0, state_since=NOW - 20)
    seen = estimate_wait(coming, fleet(coming))
    assert seen.ready_in_s == 40.0
    assert seen.reason == "loading for 20 s of an expected 60 s"
    late = coming.model_copy(update={"state_since": NOW - 500})
    assert estimate_wait(late, fleet(late)).ready_in_s == 1.0


def test_a_queued_model_comes_after_the_waited_for_ones_ahead_and_says_what_holds_the_space() -> (
    None
):
    mine = known("m", ModelState.QUEUED, 10.0, queued_at=NOW - 5, reason="nothing fits now: 2 busy")
    first = known("a", ModelState.QUEUED, 20.0, queued_at=NOW - 9, traffic=WAITED_FOR)
    wish = known("w", ModelState.QUEUED, 300.0, queued_at=NOW - 99)
    later = known("z", ModelState.QUEUED, 400.0, queued_at=NOW - 1, traffic=WAITED_FOR)
    coming = known("c", ModelState.LOADING, 7.0)
    seen = estimate_wait(mine, fleet(mine, first, wish, later, coming))
    assert seen.ready_in_s == 10 + 20 + 7
    assert seen.reason == "queued behind a; nothing fits now: 2 busy"
    assert not seen.backing_off


def test_a_load_that_began_after_the_snapshot_has_not_advanced() -> None:
    coming = known("m", ModelState.LOADING, 60.0, state_since=NOW + 5)
    assert estimate_wait(coming, fleet(coming)) == WaitEstimate(
        ready_in_s=60.0, reason="loading for 0 s of an expected 60 s"
    )


@pytest.mark.parametrize(
    ("state", "given", "ahead"),
    [
        (ModelState.QUEUED, {"queued_at": NOW - 6, "traffic": WAITED_FOR}, True),
        (ModelState.QUEUED, {"queued_at": NOW - 5, "traffic": WAITED_FOR}, False),
        (ModelState.QUEUED, {"state_since": NOW - 6, "traffic": WAITED_FOR}, True),
        (ModelState.QUEUED, {"state_since": NOW - 4, "traffic": WAITED_FOR}, False),
        (ModelState.QUEUED, {"queued_at": NOW - 6, "traffic": Traffic()}, False),
        (ModelState.READY, {"queued_at": NOW - 6, "traffic": WAITED_FOR}, False),
    ],
)
def test_ahead_are_queued_models_that_requests_have_waited_for_longer(
    state: ModelState, given: dict[str, object], ahead: bool
) -> None:
    mine = known("m", ModelState.QUEUED, 10.0, queued_at=NOW - 5, traffic=WAITED_FOR)
    other = known("a", state, 20.0, **given)
    told = (30.0, "queued behind a; queued") if ahead else (10.0, "queued")
    seen = estimate_wait(mine, fleet(other, mine))
    assert (seen.ready_in_s, seen.reason) == told


def test_a_model_without_a_place_in_the_queue_counts_from_its_state() -> None:
    mine = known("m", ModelState.QUEUED, 1.0, state_since=NOW - 5)
    ahead = [
        known("late", ModelState.QUEUED, 1.0, state_since=NOW - 6, traffic=WAITED_FOR),
        known("early", ModelState.QUEUED, 1.0, queued_at=NOW - 9, traffic=WAITED_FOR),
    ]
    seen = estimate_wait(mine, fleet(mine, *ahead))
    assert (seen.ready_in_s, seen.reason) == (3.0, "queued behind early, late; queued")


@pytest.mark.parametrize(
    ("queued", "told"),
    [
        (3, "queued behind a0, a1, a2; queued"),
        (4, "queued behind a0, a1, a2 and 1 more; queued"),
    ],
)
def test_a_long_queue_is_not_listed_whole(queued: int, told: str) -> None:
    mine = known("m", ModelState.QUEUED, 1.0, queued_at=NOW)
    ahead = [
        known(f"a{i}", ModelState.QUEUED, 1.0, queued_at=NOW - 10 + i, traffic=WAITED_FOR)
        for i in range(queued)
    ]
    seen = estimate_wait(mine, fleet(mine, *reversed(ahead)))
    assert (seen.ready_in_s, seen.reason) == (1.0 + queued, told)


def test_a_model_that_backs_off_is_hopeless_until_it_is_tried_again() -> None:
    failed = known("m", ModelState.FAILED, 1.0, retry_at=NOW + 45, reason="out of memory")
    assert estimate_wait(failed, fleet(failed)) == WaitEstimate(
        ready_in_s=45.0, reason="the last load failed: out of memory", backing_off=True
    )


@pytest.mark.parametrize("retry_at", [None, NOW - 1, NOW])
def test_a_model_that_may_be_loaded_takes_a_load(retry_at: float | None) -> None:
    idle = known("m", ModelState.UNLOADED, 12.0, retry_at=retry_at, reason="idle")
    assert estimate_wait(idle, fleet(idle)) == WaitEstimate(
        ready_in_s=load_seconds(idle), reason="idle"
    )
    assert load_seconds(idle) == 12.0


def test_a_quarantined_model_is_hopeless_for_good() -> None:
    failed = known("m", ModelState.FAILED, 1.0, failures=5, reason="quarantined")
    assert estimate_wait(failed, fleet(failed)) == WaitEstimate(
        ready_in_s=LONGEST_PAUSE_S, reason="quarantined", backing_off=True, quarantined=True
    )


def test_loads_of_several_nodes_run_at_once() -> None:
    ahead = [known(f"m{i}", ModelState.LOADING, 60.0, state_since=NOW - 5) for i in range(2)]
    queued = known("q", ModelState.QUEUED, 30.0, queued_at=NOW - 1)
    nodes = [node("a"), node("b"), node("c", state="cordoned")]
    seen = estimate_wait(queued, over(*nodes, models=(*ahead, queued)))
    assert seen.ready_in_s == 30.0 + 120.0 / 2


def test_a_wait_counts_the_transfer_where_no_node_that_loads_has_the_files() -> None:
    fetching = node("a", report={"fetches": True, "fetch_bytes_per_s": 1024**3})
    gone = node("b", state="cordoned")
    subject = known("m", ModelState.UNLOADED, 30.0)
    world = over(fetching, gone, models=(subject,), files={"m": frozenset({"b"})})
    assert estimate_wait(subject, world).ready_in_s == 40.0
    there = over(fetching, gone, models=(subject,), files={"m": frozenset({"a", "b"})})
    assert estimate_wait(subject, there).ready_in_s == 30.0


def test_a_model_of_a_silent_node_is_loaded_elsewhere() -> None:
    held = loaded("m", "a/g0")
    seen = estimate_wait(held, over(node("a", silent_s=42), node("b"), models=(held,)))
    assert seen.reason.startswith("node a has been silent for 42 s")
