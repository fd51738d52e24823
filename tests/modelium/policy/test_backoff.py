"""Pauses, quarantine, and what is tried again where."""

from __future__ import annotations

import errno

import pytest

from modelium.errors import DeadlineExceeded, FailureKind, FolderMissing, LoadFailed, Unavailable
from modelium.lifecycle import ModelState
from modelium.models import Model, Queue, RuntimeName, RuntimeStatus, Setbacks, Trigger
from modelium.policy.backoff import (
    Verdict,
    after_failure,
    is_retried,
    lost_engine,
    other_runtimes,
    pause_s,
)
from tests.fakes.fleets import NOW, fleet, loaded, model, policy
from tests.modelium.policy.plans import broken, load

V, R = RuntimeName.VLLM, RuntimeName.RAY_SERVE
K = FailureKind


def failed(kind: FailureKind | None = K.KILLED, *, failures: int = 1, **given: object) -> Model:
    setbacks = Setbacks(kind=kind, runtimes=dict(given.pop("runtimes", {})))  # type: ignore[call-overload]
    fields = {"state": ModelState.FAILED, "retry_at": NOW - 1, "reason": "no", **given}
    return model("a", failures=failures, setbacks=setbacks, **fields)


def after(known: Model, error: BaseException) -> Verdict:
    return after_failure(known, error, V, policy(), configuration="c", now=NOW)


def test_pauses_double_from_ten_seconds_to_five_minutes() -> None:
    pauses = [pause_s(n) for n in (1, 2, 3, 5, 6, 7, 5000)]
    assert pauses == [10, 20, 40, 160, 300, 300, 300]


def test_the_fifth_failure_quarantines_and_says_what_to_do() -> None:
    fourth = after(failed(failures=3), LoadFailed("bad magic"))
    assert (fourth.failures, fourth.retry_at) == (4, NOW + 80)
    fifth = after(failed(failures=4), LoadFailed("bad magic"))
    assert (fifth.failures, fifth.retry_at) == (5, None)
    assert "modelium retry a" in fifth.reason and "bad magic" in fifth.reason
    assert fifth.setbacks.configuration == "c"


def test_a_missing_folder_is_no_failed_attempt() -> None:
    found = after(failed(failures=4), FolderMissing("/models/a/1"))
    assert (found.failures, found.retry_at, found.quarantined) == (0, None, False)
    assert found.setbacks == Setbacks()
    assert found.reason == "its folder is missing: put /models/a/1 back, or drop the model again"
    assert after(failed(failures=4), LoadFailed("bad magic")).quarantined


@pytest.mark.parametrize(
    ("error", "failures"),
    [
        *[(Unavailable("no answer"), 4), (OSError(errno.ENOSPC, "full"), 4)],
        *[(DeadlineExceeded("late"), 5), (OSError(errno.EACCES, "denied"), 5)],
    ],
)
def test_what_passes_by_itself_quarantines_nothing(error: Exception, failures: int) -> None:
    found = after(failed(failures=4), error)
    assert found.failures == failures
    assert (found.retry_at is None) == (failures == 5)


@pytest.mark.parametrize(
    ("kind", "count"),
    [(K.KILLED, 2), (K.UNKNOWN, 2), (K.UNSUPPORTED, 2), (K.OUT_OF_MEMORY, 1), (K.BAD_FILES, 1)],
)
def test_only_a_fault_of_the_runtime_counts_against_it(kind: FailureKind, count: int) -> None:
    known = failed(runtimes={V: 1})
    assert after(known, LoadFailed("no", kind=kind)).setbacks.runtimes == {V: count}


def test_one_certain_failure_is_enough_for_another_runtime() -> None:
    found = after(failed(), LoadFailed("no", kind=K.UNSUPPORTED))
    assert found.setbacks.runtimes == {V: 2}


@pytest.mark.parametrize(("ready_s", "counts"), [(0.0, True), (599.0, True), (600.0, False)])
def test_a_loss_counts_within_ten_minutes(ready_s: float, counts: bool) -> None:
    ready = loaded("a", "n/g0")
    assert ready.deployment is not None
    deployment = ready.deployment.model_copy(update={"ready_at": NOW - ready_s})
    ready = ready.model_copy(update={"deployment": deployment})
    failure = lost_engine(ready, "exit 1", policy(), now=NOW)
    assert (failure is not None) == counts
    if failure is not None:
        assert failure.kind is K.KILLED
        assert str(failure) == f"lost {ready_s:.0f} s after it was ready: exit 1"


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (failed(), True),
        (failed(None), True),
        (failed(K.OUT_OF_MEMORY), True),
        (failed(K.BAD_FILES), False),
        (failed(K.UNSUPPORTED, runtimes={V: 2}), True),  # in Ray Serve
        (failed(K.UNSUPPORTED, runtimes={V: 2, R: 2}), False),
        (failed(retry_at=None), False),  # quarantined
        (failed(None, failures=0), True),  # forgiven
        (failed(None, failures=0, retry_at=None), False),  # refused
        (failed(twin_of="b"), False),
    ],
)
def test_what_is_tried_again_by_itself(known: Model, expected: bool) -> None:
    assert is_retried(known, fleet(known), policy()) == expected


def test_a_runtime_that_is_away_is_no_other_one() -> None:
    known = failed(runtimes={V: 2})
    away = tuple(RuntimeStatus(name=name, enabled=True, healthy=name is V) for name in (V, R))
    assert other_runtimes(known, fleet(known), policy()) == (R,)
    assert other_runtimes(known, fleet(known, runtimes=away), policy()) == ()


def test_no_plan_but_an_operators_takes_a_model_out_of_quarantine() -> None:
    known = failed(failures=5, retry_at=None)
    world = fleet(known)
    for action in (Queue(model="a", reason="r"), load("a")):
        assert broken(world, action, trigger=Trigger.REVIEW) == ["quarantined"]
        assert broken(world, action, trigger=Trigger.OPERATOR) == []
