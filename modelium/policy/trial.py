"""Whether a version that has just begun to serve stays (no I/O here)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialTerms:
    """When a version has passed its trial, and when it has failed."""

    requests: int
    """Answers that decide."""
    failures: int
    """Failed ones among them that fail the trial."""
    seconds: float
    """The trial ends after this time, however few requests there were."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What a version has answered since it began to serve."""

    version: int | None = None
    total: int = 0
    failed: int = 0
    """5xx answers, and connections that broke."""


class Verdict(Enum):
    """How a trial stands."""

    PENDING = "pending"
    PASSED = "passed"
    FAILED = "failed"


def verdict(answers: Answers, terms: TrialTerms, *, served_s: float) -> Verdict:
    """Return how the trial of a version stands that has served for ``served_s`` seconds.

    It fails with `TrialTerms.failures`, or, when its time is over, with no answer that succeeded.
    """
    if answers.failed >= terms.failures:
        return Verdict.FAILED
    if answers.total >= terms.requests:
        return Verdict.PASSED
    if served_s < terms.seconds:
        return Verdict.PENDING
    nothing_worked = answers.total > 0 and answers.failed == answers.total
    return Verdict.FAILED if nothing_worked else Verdict.PASSED
