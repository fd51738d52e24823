"""What those who wait are told."""

from __future__ import annotations

from modelium.lifecycle import ModelState
from modelium.models import Fleet, MeasuredLoad, Model, RuntimeName, Traffic
from modelium.routing.wait_estimate import estimate_wait
from tests.fakes.fleets import NOW, model

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


def test_a_long_queue_is_not_listed_whole() -> None:
    mine = known("m", ModelState.QUEUED, 1.0, queued_at=NOW)
    ahead = [
        known(f"a{i}", ModelState.QUEUED, 1.0, queued_at=NOW - 10 + i, traffic=WAITED_FOR)
        for i in range(5)
    ]
    assert estimate_wait(mine, fleet(mine, *ahead)).reason.startswith(
        "queued behind a0, a1, a2 and 2 more; "
    )


def test_a_model_that_backs_off_is_hopeless_until_it_is_tried_again() -> None:
    failed = known("m", ModelState.FAILED, 1.0, retry_at=NOW + 45, reason="out of memory")
    seen = estimate_wait(failed, fleet(failed))
    assert (seen.ready_in_s, seen.backing_off) == (45.0, True)
    assert "out of memory" in seen.reason
