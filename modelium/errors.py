"""All errors that Modelium raises deliberately, grouped by what the caller should do.

::

    ModeliumError
    ├── TransientError            try again later
    │   ├── StalePlan             the store changed since the plan's snapshot: plan again
    │   ├── NotPlanner            another node plans: ask it
    │   ├── Unavailable           a runtime, device or server is not responding
    │   │   └── Quarantined       the model failed too often
    │   ├── StoreUnavailable      the database is locked, full, or cannot be reached
    │   └── DeadlineExceeded      the work did not finish within its deadline
    ├── InputError                correct the input, then try again
    │   ├── ConfigError           a field of the configuration
    │   ├── DropRejected          a dropped folder: it is kept in ``rejected/`` with the reason
    │   ├── UnknownModel          no model of that name
    │   ├── NeedsApproval         an operator must approve it first
    │   └── PlanRejected          the policy forbids the plan (in `modelium.policy`)
    └── PermanentError            the same call will fail again
        ├── LoadFailed            the runtime refused or died; carries a ``FailureKind``
        │   └── FolderMissing     the model's folder is gone: put it back
        ├── Unsupported           nothing that is enabled can serve it
        └── IllegalTransition     a bug: the lifecycle does not allow it

Every message states what happened and, where possible, what to do next.
"""

from __future__ import annotations

import errno
from enum import StrEnum


class ModeliumError(Exception):
    """Root of all errors. ``reason`` is a stable machine-readable slug for JSON responses."""

    reason: str = "error"


class TransientError(ModeliumError):
    """The same call may succeed later; flows retry these and nothing else."""

    reason = "transient"


class StalePlan(TransientError):
    """The store changed after the snapshot that the plan is based on."""

    reason = "stale-plan"


class NotPlanner(TransientError):
    """Another node plans, and this one cannot accept a plan."""

    reason = "not-planner"


class Unavailable(TransientError):
    """A runtime, device or server is not responding."""

    reason = "unavailable"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        """``retry_after_s``: seconds until a retry may succeed, where known."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreUnavailable(TransientError):
    """The store's database does not serve now; nothing of the transaction was written."""

    def __init__(self, message: str, *, reason: str = "store-unavailable") -> None:
        """``reason`` is a slug such as ``store-locked``."""
        super().__init__(message)
        self.reason = reason


class Quarantined(Unavailable):
    """The model failed too often: it is not loaded before an operator or a change of it says so."""

    reason = "quarantined"


class DeadlineExceeded(TransientError):
    """The work did not finish within its deadline."""

    reason = "deadline-exceeded"


class InputError(ModeliumError):
    """The input is invalid; the message says what is allowed."""

    reason = "bad-input"


class ConfigError(InputError):
    """The configuration is invalid; the message names each field and what is allowed."""

    reason = "bad-config"


class DropRejected(InputError):
    """A dropped folder or file was rejected; it is kept."""

    def __init__(self, message: str, *, reason: str, approvable: bool = False) -> None:
        """``reason`` is a slug such as ``pickle``; ``approvable``: an operator may allow it."""
        super().__init__(message)
        self.reason = reason
        self.approvable = approvable


class UnknownModel(InputError):
    """No model of that name is registered."""

    reason = "unknown-model"


class NeedsApproval(InputError):
    """The action needs an operator's approval first."""

    reason = "needs-approval"


class PermanentError(ModeliumError):
    """The same call will fail again."""

    reason = "permanent"


class FailureKind(StrEnum):
    """Why a runtime could not load a model."""

    OUT_OF_MEMORY = "out-of-memory"
    UNSUPPORTED = "unsupported-architecture"
    BAD_FILES = "bad-files"
    BAD_SETTINGS = "bad-settings"
    PORT = "port"
    KILLED = "killed"
    STUCK = "stuck"
    ENVIRONMENT = "environment"
    UNKNOWN = "unknown"


class LoadFailed(PermanentError):
    """The runtime refused the model or died while loading it."""

    def __init__(self, message: str, *, kind: FailureKind = FailureKind.UNKNOWN) -> None:
        """``kind`` is the classified cause; the message includes the end of the runtime's log."""
        super().__init__(message)
        self.kind = kind
        self.reason = kind.value


class FolderMissing(LoadFailed):
    """The model's folder is not there. It is no failed attempt: the model waits for its folder."""

    BEGINS = "its folder is missing: "
    """How the reason of a model begins that failed because of that."""

    def __init__(self, path: str) -> None:
        """``path``: of the folder."""
        super().__init__(
            f"{self.BEGINS}put {path} back, or drop the model again", kind=FailureKind.BAD_FILES
        )


class Unsupported(PermanentError):
    """No enabled runtime can serve the model."""

    reason = "unsupported"


class IllegalTransition(PermanentError):
    """The lifecycle does not allow the transition, or another writer changed the state first."""

    reason = "illegal-transition"


_PASSING = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO,
        errno.ESTALE, errno.EROFS, errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN,
    }
)  # fmt: skip


def is_passing(exc: OSError) -> bool:
    """Whether ``exc`` is the machine's, such as a full disk, and says nothing of a model."""
    return exc.errno in _PASSING
