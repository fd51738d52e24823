"""Which models may wait in the queue, and which failed ones are tried again."""

from __future__ import annotations

import pytest

from modelium.lifecycle import ModelState
from modelium.models import Removal, RuntimeName, RuntimeStatus
from modelium.policy import RuntimeRules
from modelium.policy.backoff import is_retried, other_runtimes, pause_s
from modelium.policy.eligibility import may_queue
from tests.fakes.fleets import NOW, fleet, model, policy

S = ModelState
V, RAY = RuntimeName.VLLM, RuntimeName.RAY_SERVE


@pytest.mark.parametrize("state", list(S))
def test_what_holds_no_memory_and_is_analyzed_may_be_queued_unless_it_is_removed(state: S) -> None:
    may = state in (S.ANALYZED, S.QUEUED, S.UNLOADED, S.FAILED)
    assert may_queue(model("a", state=state)) is may
    assert not may_queue(model("a", state=state, removal=Removal(by="ann", at=1)))


def test_other_runtimes_are_enabled_by_both_and_answer() -> None:
    subject = model("a")
    assert other_runtimes(subject, fleet(), policy()) == (V, RAY)
    off = policy(runtimes={V: RuntimeRules(), RAY: RuntimeRules(enabled=False)})
    assert other_runtimes(subject, fleet(), off) == (V,)
    statuses = (
        RuntimeStatus(name=V, enabled=False, healthy=True),
        RuntimeStatus(name=RAY, enabled=True, healthy=False),
    )
    assert other_runtimes(subject, fleet(runtimes=statuses), policy()) == ()


@pytest.mark.parametrize(
    ("failures", "retry_at", "retried"),
    [(0, None, False), (1, None, False), (1, NOW, True), (0, NOW, True)],
)
def test_what_failed_and_is_not_quarantined_is_tried_again(
    failures: int, retry_at: float | None, retried: bool
) -> None:
    subject = model("a", state=S.FAILED, failures=failures, retry_at=retry_at)
    assert is_retried(subject, fleet(), policy()) is retried


@pytest.mark.parametrize(("failures", "pause"), [(0, 10), (1, 10), (2, 20), (5, 160), (6, 300)])
def test_the_pause_doubles_with_each_failure(failures: int, pause: float) -> None:
    assert pause_s(failures) == pause
