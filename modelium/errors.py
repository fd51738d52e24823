"""Every error that Modelium raises on purpose, split by what the caller should do.

::

    ModeliumError
    ├── TransientError            try again, later
    │   ├── StalePlan             the world moved under a plan: snapshot and plan anew
    │   ├── Unavailable           a runtime, device or server does not answer now
    │   └── DeadlineExceeded      it was going on, but did not end in time
    ├── InputError                fix what you gave, then try again
    │   ├── ConfigError           a field of the configuration
    │   ├── DropRejected          a dropped folder: it is kept in ``rejected/`` with the reason
    │   ├── UnknownModel          no model of that name
    │   ├── NeedsApproval         an operator has to allow it first
    │   └── PlanRejected          the policy forbids the plan (in `modelium.policy`)
    └── PermanentError            do not try the same again
        ├── LoadFailed            the runtime refused or died; carries a ``FailureKind``
        ├── Unsupported           nothing that is enabled can serve it
        └── IllegalTransition     a bug: the lifecycle table has no such edge

Every message says what happened and, where there is one, what to do next.
"""

from __future__ import annotations

from enum import StrEnum


class ModeliumError(Exception):
    """Root of the tree. ``reason`` is a stable machine-readable slug for JSON answers."""

    reason: str = "error"


class TransientError(ModeliumError):
    """The same call may succeed later; flows retry these and nothing else."""

    reason = "transient"


class StalePlan(TransientError):
    """The store changed after the snapshot that the plan was made on."""

    reason = "stale-plan"


class Unavailable(TransientError):
    """A runtime, device or server does not answer now."""

    reason = "unavailable"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        """``retry_after_s``: when it is worth asking again, where that is known."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(TransientError):
    """The work was under way but did not end within its deadline."""

    reason = "deadline-exceeded"


class InputError(ModeliumError):
    """What was given is wrong; the message says what is allowed."""

    reason = "bad-input"


class ConfigError(InputError):
    """The configuration is wrong; the message names each field and what is allowed."""

    reason = "bad-config"


class DropRejected(InputError):
    """A dropped folder or file was refused; nothing of it is lost."""

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
    """Trying the same again will fail again."""

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
        """``kind`` is the classified cause; the message carries the runtime's own last words."""
        super().__init__(message)
        self.kind = kind
        self.reason = kind.value


class Unsupported(PermanentError):
    """No enabled runtime can serve the model."""

    reason = "unsupported"


class IllegalTransition(PermanentError):
    """The lifecycle table has no such edge, or another writer moved the model first."""

    reason = "illegal-transition"
