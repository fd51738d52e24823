"""What came of each action of a decision."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.models import RuntimeName, Trigger
from modelium.models.outcomes import Outcome, Result
from tests.modelium.outcomes.chains import NOW, Chain

DEMAND, INGEST, REVIEW = Trigger.DEMAND, Trigger.INGEST, Trigger.REVIEW


def test_a_load_says_how_long_it_took_and_when_the_first_request_came() -> None:
    chain = Chain().load(100, author="llm", trigger=INGEST, fallback=True)
    chain.told(112, "ready", load_s=11.5).asked(115, 116)
    assert chain.found() == [
        Outcome(
            decision="d0",
            at=100,
            author="llm",
            trigger=INGEST,
            fallback=True,
            model="a",
            action="load",
            runtime=RuntimeName.VLLM,
            result=Result.READY,
            load_s=11.5,
            asked_after_s=3,
        )
    ]


def test_a_load_of_which_nothing_is_told_is_pending() -> None:
    (found,) = Chain().load(100).asked(101).found()
    assert (found.result, found.load_s, found.asked_after_s) == (Result.PENDING, None, None)
    assert (found.quiet_s, found.summary) == (None, "pending")


def test_a_load_without_a_recorded_time_took_until_its_event() -> None:
    chain = Chain().load(100).told(107, "ready")
    assert chain.fields(0, "load_s", "quiet_s") == (7, NOW - 107)


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        (
            {"kind": "stuck", "reason": "x" * 400},
            {"result": Result.FAILED, "kind": "stuck", "detail": "x" * 300, "load_s": 5},
        ),
        ({}, {"result": Result.FAILED, "load_s": 5}),
    ],
)
def test_a_load_that_failed_says_why(detail: dict[str, Any], expected: dict[str, Any]) -> None:
    (found,) = Chain().load(100).told(105, "failed", **detail).asked(106).found()
    base = Outcome(
        decision="d0",
        at=100,
        author="rules",
        trigger=Trigger.SWEEP,
        model="a",
        action="load",
        runtime=RuntimeName.VLLM,
    )
    assert found == base.model_copy(update=expected)
    assert found.failed


def test_an_aborted_load_did_not_take_place() -> None:
    chain = Chain().load(100).told(105, "aborted", reason="y" * 400)
    assert chain.fields(0, "result", "detail", "failed", "load_s") == (
        *(Result.WITHDRAWN, "y" * 300, False, None),
    )


def test_a_load_that_was_queued_again_did_not_take_place() -> None:
    chain = Chain().load(100).told(101, "queued", decision="other", reason="no")
    assert chain.fields(0, "result") == (Result.PENDING,)
    chain.told(102, "queued", decision="d0", reason="no memory became free")
    assert chain.fields(0, "result", "detail") == (Result.WITHDRAWN, "no memory became free")


def test_a_decision_that_failed_without_an_event_was_withdrawn() -> None:
    chain = Chain().load(100, failure="its run ended while loading")
    assert chain.fields(0, "result", "detail") == (
        Result.WITHDRAWN,
        "its run ended while loading",
    )


def test_what_is_told_of_a_later_load_is_not_taken_for_the_earlier_one() -> None:
    chain = Chain().load(100).loaded(200, 210)
    assert [o.result for o in chain.found()] == [Result.PENDING, Result.READY]


def test_each_event_belongs_to_one_step_even_at_one_instant() -> None:
    chain = Chain().load(100).unload(100).load(100)
    chain.told(100, "failed", kind="stuck").told(100, "evicted").told(100, "ready")
    assert [o.result for o in chain.found()] == [Result.FAILED, Result.UNLOADED, Result.READY]


def test_events_from_before_a_decision_are_not_its() -> None:
    chain = Chain().told(99, "ready").load(100)
    assert chain.fields(0, "result") == (Result.PENDING,)


def test_models_do_not_mix_and_their_other_versions_are_theirs() -> None:
    chain = Chain().load(100, "a@2").load(101, "b")
    chain.told(102, "ready", "b").told(103, "ready", "a").told(104, "ready", "c")
    chain.asked(110, model="b")
    found = chain.found()
    assert [(o.model, o.load_s, o.asked_after_s) for o in found] == [("a", 3, None), ("b", 1, 8)]


# --- cold starts ----------------------------------------------------------------------------------


def test_a_load_on_demand_is_a_cold_start_of_whoever_unloaded_the_model() -> None:
    chain = Chain().loaded(100, 110).unloaded(900, author="llm", trigger=REVIEW)
    chain.queue(1000, trigger=DEMAND).loaded(1010, 1020)
    assert chain.fields(3, "cold_start_of", "asked_after_s") == ("", None)
    chain.asked(1000)
    assert chain.fields(3, "cold_start_of", "asked_after_s", "quiet_s") == ("d1", 0, None)


def test_demand_is_a_cold_start_also_where_requests_are_not_logged() -> None:
    chain = Chain().queue(90, author="llm", trigger=INGEST).loaded(100, 110, trigger=DEMAND)
    assert chain.fields(1, "cold_start_of", "asked_after_s") == ("d0", 0)


@pytest.mark.parametrize("trigger", [Trigger.SWEEP, Trigger.UPKEEP, DEMAND])
def test_queueing_what_waits_already_is_no_choice(trigger: Trigger) -> None:
    chain = Chain().queue(90, trigger=trigger).loaded(100, 110, trigger=DEMAND)
    assert chain.fields(1, "cold_start_of") == ("d1",)


@pytest.mark.parametrize("trigger", [INGEST, REVIEW, Trigger.OPERATOR])
def test_queueing_by_choice_leaves_a_model_unloaded(trigger: Trigger) -> None:
    chain = Chain().queue(90, trigger=trigger).loaded(100, 110).asked(90)
    assert chain.fields(1, "cold_start_of") == ("d0",)
    chain.requests = [("a", 89.0)]
    assert chain.fields(1, "cold_start_of") == ("",)


def test_queueing_an_unloaded_model_does_not_take_the_blame() -> None:
    chain = Chain().loaded(0, 1).unloaded(50).queue(60, trigger=REVIEW).loaded(100, 110)
    chain.asked(70)
    assert chain.fields(3, "cold_start_of") == ("d1",)


def test_a_request_while_the_model_drains_waits_for_no_load() -> None:
    chain = Chain().loaded(0, 10).unload(900).told(905, "evicted").loaded(1000, 1010)
    chain.asked(902)
    assert chain.fields(2, "cold_start_of") == ("",)
    chain.asked(905)
    assert chain.fields(2, "cold_start_of") == ("d1",)


def test_a_request_during_the_first_load_is_its_own_cold_start() -> None:
    chain = Chain().loaded(100, 110).asked(109.9)
    assert chain.fields(0, "cold_start_of", "asked_after_s") == ("d0", 0)
    chain.requests = [("a", 110.0)]
    assert chain.fields(0, "cold_start_of", "asked_after_s") == ("", 0)


@pytest.mark.parametrize(("event", "blamed"), [("failed", "d0"), ("aborted", "d1")])
def test_a_load_that_failed_left_the_model_unloaded(event: str, blamed: str) -> None:
    chain = Chain().load(100).told(105, event).loaded(110, 120, trigger=DEMAND)
    assert chain.fields(1, "cold_start_of") == (blamed,)


def test_a_failed_load_does_not_take_the_blame_from_the_unload() -> None:
    chain = Chain().loaded(0, 1).unloaded(50)
    chain.load(100).told(105, "failed").loaded(110, 120, trigger=DEMAND)
    assert chain.fields(3, "cold_start_of") == ("d1",)


def test_a_lost_engine_left_the_model_unloaded() -> None:
    chain = Chain().loaded(0, 10).told(800, "lost").loaded(810, 820, trigger=DEMAND)
    assert chain.fields(1, "cold_start_of") == ("d0",)


# --- what came after ------------------------------------------------------------------------------


def test_a_model_that_was_unloaded_was_loaded_until_then() -> None:
    chain = Chain().loaded(0, 10).unload(100).told(130, "evicted")
    assert chain.fields(0, "held_s", "quiet_s", "never_asked") == (120, 120, True)
    chain.asked(129)
    assert chain.fields(0, "asked_after_s", "never_asked") == (119, False)
    chain.requests = [("a", 130.0)]
    assert chain.fields(0, "asked_after_s", "never_asked") == (None, True)


def test_a_model_that_is_loaded_again_was_gone_even_if_nothing_told_of_it() -> None:
    chain = Chain().loaded(0, 10).asked(60).loaded(50, 70).unloaded(900)
    assert chain.fields(0, "held_s", "asked_after_s", "never_asked") == (40, None, True)
    assert chain.fields(1, "held_s") == (831,)


@pytest.mark.parametrize(("now", "never"), [(609.0, False), (610.0, True)])
def test_a_loaded_model_is_not_asked_after_ten_minutes(now: float, never: bool) -> None:
    (found,) = Chain().loaded(0, 10).found(now=now)
    assert (found.held_s, found.quiet_s, found.never_asked) == (None, now - 10, never)


@pytest.mark.parametrize(
    ("detail", "result", "kind"),
    [({"kind": "killed"}, Result.LOST, "killed"), ({}, Result.READY, "")],
)
def test_an_engine_that_is_lost_too_soon_is_a_failure(
    detail: dict[str, str], result: Result, kind: str
) -> None:
    chain = Chain().loaded(0, 10).told(609, "lost", **detail).asked(20)
    assert chain.fields(0, "result", "kind", "failed") == (result, kind, result is Result.LOST)
    assert chain.fields(0, "held_s", "asked_after_s", "reversed") == (599, 10, False)


def test_what_is_told_of_an_unload_after_a_loss_is_its_own() -> None:
    chain = Chain().loaded(0, 10).told(20, "lost", kind="killed").loaded(30, 40).unloaded(900)
    assert [o.result for o in chain.found()] == [Result.LOST, Result.READY, Result.UNLOADED]
    assert chain.fields(1, "held_s") == (861,)


@pytest.mark.parametrize(
    ("at", "cause", "expected"),
    [(609.0, "space", True), (610.0, "space", False), (609.0, "replaced", False)],
)
def test_a_load_is_undone_by_an_unload_within_ten_minutes(
    at: float, cause: str, expected: bool
) -> None:
    chain = Chain().loaded(0, 10).unloaded(at, cause=cause)
    assert chain.fields(0, "reversed") == (expected,)


def test_a_load_that_is_followed_by_a_load_is_not_undone() -> None:
    chain = Chain().loaded(0, 10).load(20).told(21, "failed")
    assert chain.fields(0, "reversed") == (False,)


@pytest.mark.parametrize(
    ("at", "cause", "expected"),
    [(700.0, "idle", True), (701.0, "idle", False), (700.0, "replaced", False)],
)
def test_an_unload_is_undone_by_a_load_within_ten_minutes(
    at: float, cause: str, expected: bool
) -> None:
    chain = Chain().loaded(0, 1).unloaded(100, cause=cause).queue(200).loaded(at, at + 5)
    assert chain.fields(1, "result", "again_after_s", "reversed") == (
        Result.UNLOADED,
        at - 101,
        expected,
    )


def test_an_unload_says_when_the_model_was_missed() -> None:
    chain = Chain().loaded(0, 1).unloaded(100)
    assert chain.fields(1, "asked_after_s", "quiet_s") == (None, NOW - 101)
    chain.asked(100, 131, 140)
    assert chain.fields(1, "asked_after_s", "quiet_s") == (30, None)
    chain.queue(111, trigger=DEMAND)
    assert chain.fields(1, "asked_after_s", "again_after_s") == (10, None)


def test_an_unload_for_another_models_request_is_no_request_for_this_one() -> None:
    chain = Chain().loaded(0, 1).unloaded(100).loaded(800, 810).unloaded(900, trigger=DEMAND)
    assert chain.fields(1, "asked_after_s", "again_after_s") == (None, 699)


@pytest.mark.parametrize(
    ("given", "later", "result", "detail"),
    [
        ({}, False, Result.PENDING, ""),
        ({}, True, Result.STAYED, ""),
        ({"failure": "still busy: a"}, False, Result.STAYED, "still busy: a"),
    ],
)
def test_an_unload_that_was_given_up_left_the_model_loaded(
    given: dict[str, str], later: bool, result: Result, detail: str
) -> None:
    chain = Chain().loaded(0, 1).unload(100, **given)
    if later:
        chain.unloaded(200)
    assert chain.fields(1, "result", "detail", "reversed") == (result, detail, False)


def test_a_queued_model_says_when_it_was_loaded_and_counts_once() -> None:
    chain = Chain().queue(100).queue(110).queue(120).loaded(150, 160).asked(130)
    assert [o.action for o in chain.found()] == ["queue", "load"]
    assert chain.fields(0, "result", "again_after_s", "asked_after_s", "reversed") == (
        Result.QUEUED,
        50,
        30,
        False,
    )


# --- in words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chain", "index", "words"),
    [
        (Chain().loaded(0, 10), 0, "ready after 10.0 s; no request in 9990 s"),
        (Chain().loaded(0, 10).asked(13), 0, "ready after 10.0 s; first request 3 s later"),
        (Chain().loaded(0, 10, trigger=DEMAND), 0, "ready after 10.0 s; requests were waiting"),
        (
            Chain().loaded(0, 10).asked(13).unloaded(99),
            0,
            "ready after 10.0 s; first request 3 s later; unloaded after 90 s",
        ),
        (Chain().load(0).told(5, "failed", kind="stuck"), 0, "failed after 5.0 s (stuck)"),
        (Chain().load(0).told(5, "failed"), 0, "failed after 5.0 s"),
        (
            Chain().loaded(0, 5).told(10, "lost", kind="killed").asked(7),
            0,
            "ready after 5.0 s, lost 5 s later; first request 2 s later",
        ),
        (Chain().load(0).told(5, "aborted", reason="r"), 0, "withdrawn"),
        (Chain().loaded(0, 1).unloaded(100), 1, "unloaded; no request in 9899 s"),
        (
            Chain().loaded(0, 1).unloaded(100).loaded(111, 112, trigger=DEMAND),
            1,
            "unloaded; first request 10 s later; loaded again after 10 s",
        ),
        (Chain().unload(5), 0, "pending"),
        (Chain().unload(5, failure="busy"), 0, "stayed"),
        (Chain().queue(9900), 0, "queued; no request in 100 s"),
        (
            Chain().queue(9900).loaded(9910, 9920, trigger=DEMAND),
            0,
            "queued; first request 10 s later; loaded after 10 s",
        ),
    ],
)
def test_an_outcome_is_told_in_words(chain: Chain, index: int, words: str) -> None:
    assert chain.found()[index].summary == words
