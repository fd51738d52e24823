"""What follows a failed attempt to run a model: a pause, another runtime, quarantine (no I/O here).

An attempt fails with its load, or with an engine that is lost soon after it was ready.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelium.errors import (
    DeadlineExceeded,
    FailureKind,
    FolderMissing,
    LoadFailed,
    TransientError,
    is_passing,
)
from modelium.models import Fleet, Model, RuntimeName, Setbacks
from modelium.policy.eligibility import ready_s
from modelium.policy.policy import Policy

FIRST_PAUSE_S = 10.0
"""Before a failed model is tried again; doubles with each further failure."""

LONGEST_PAUSE_S = 300.0

CERTAIN = frozenset({FailureKind.UNSUPPORTED, FailureKind.BAD_SETTINGS})
"""Failures that a runtime repeats with the same files and settings; another one may not."""

NOT_THE_RUNTIME = frozenset({FailureKind.BAD_FILES, FailureKind.OUT_OF_MEMORY})
"""Failures that every runtime may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The state of a model after a failed attempt."""

    failures: int
    retry_at: float | None
    """``None``: it is quarantined, or waits for its folder."""
    setbacks: Setbacks
    reason: str

    @property
    def quarantined(self) -> bool:
        """Whether only an operator, or a change of the model, has it tried again."""
        return self.failures > 0 and self.retry_at is None

    def pause_s(self, now: float) -> float:
        """Return the seconds until it is tried again."""
        return LONGEST_PAUSE_S if self.retry_at is None else max(0.0, self.retry_at - now)


def pause_s(failures: int) -> float:
    """Return the pause after so many failed attempts in a row."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(16, max(0, failures - 1)))


def after_failure(
    model: Model,
    error: BaseException,
    runtime: RuntimeName,
    policy: Policy,
    *,
    configuration: str,
    now: float,
) -> Verdict:
    """Return what the failure of ``model`` in ``runtime`` leads to.

    Passing faults (a runtime that does not answer, a full disk) have pauses, too, but never lead to
    quarantine. A missing folder is no failed attempt. ``configuration``: a digest of the model's.
    """
    if isinstance(error, FolderMissing):
        return Verdict(failures=0, retry_at=None, setbacks=Setbacks(), reason=str(error))
    passing = (isinstance(error, TransientError) and not isinstance(error, DeadlineExceeded)) or (
        isinstance(error, OSError) and is_passing(error)
    )
    kind = None if passing else getattr(error, "kind", FailureKind.UNKNOWN)
    failures = model.failures + 1
    if passing:
        failures = min(failures, max(1, policy.quarantine_after - 1))
    counts = dict(model.setbacks.runtimes)
    if kind in CERTAIN:
        counts[runtime] = max(policy.attempts_per_runtime, counts.get(runtime, 0) + 1)
    elif kind is not None and kind not in NOT_THE_RUNTIME:
        counts[runtime] = counts.get(runtime, 0) + 1
    out = not passing and failures >= policy.quarantine_after
    reason = str(error) or type(error).__name__
    return Verdict(
        failures=failures,
        retry_at=None if out else now + pause_s(failures),
        setbacks=Setbacks(kind=kind, runtimes=counts, configuration=configuration),
        reason=_quarantined(model, failures, reason) if out else reason,
    )


def _quarantined(model: Model, failures: int, reason: str) -> str:
    return (
        f"quarantined after {failures} failed attempts; when its cause is mended, run `modelium "
        f"retry {model.name}` (a new version or a changed configuration of it does as well). "
        f"The last failure: {reason}"
    )


def lost_engine(model: Model, why: str, policy: Policy, *, now: float) -> LoadFailed | None:
    """Return the failure that the loss of the ready ``model`` counts as.

    ``None`` where it had been healthy for long enough.
    """
    if is_healthy(model, policy, now=now):
        return None
    seconds = max(0.0, ready_s(model, now))
    return LoadFailed(f"lost {seconds:.0f} s after it was ready: {why}", kind=FailureKind.KILLED)


def is_healthy(model: Model, policy: Policy, *, now: float) -> bool:
    """Whether the ready ``model`` has been so for long enough that earlier failures are over."""
    return ready_s(model, now) >= policy.healthy_after_s


def worn_out(model: Model, policy: Policy) -> frozenset[RuntimeName]:
    """Return the runtimes that failed ``model`` so often that another one is preferred."""
    counts = model.setbacks.runtimes
    return frozenset(r for r, count in counts.items() if count >= policy.attempts_per_runtime)


def other_runtimes(model: Model, fleet: Fleet, policy: Policy) -> tuple[RuntimeName, ...]:
    """Return the runtimes that can serve ``model`` now and are not `worn_out`."""
    if model.profile is None:
        return ()
    worn = worn_out(model, policy)
    up = {s.name for s in fleet.runtimes if s.enabled and s.healthy}
    able = (s.runtime for s in model.profile.runtimes if s.supported)
    return tuple(r for r in able if r in up and policy.rules(r).enabled and r not in worn)


def is_retried(model: Model, fleet: Fleet, policy: Policy) -> bool:
    """Whether the failed ``model`` is to be tried again although nobody asks for it.

    When, says `Model.retry_at`. A fault of its files stays until they change, and one that its
    runtime repeats is tried on another runtime alone.
    """
    if model.failures == 0 and model.retry_at is None:
        return False  # it is refused: nothing was tried
    if model.quarantined or model.twin_of is not None:
        return False
    kind = model.setbacks.kind
    if kind is FailureKind.BAD_FILES:
        return False
    return kind not in CERTAIN or bool(other_runtimes(model, fleet, policy))
