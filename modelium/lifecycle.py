"""The states of a model, and the table of legal transitions between them (no I/O here)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from modelium.errors import IllegalTransition


class ModelState(StrEnum):
    """The lifecycle state of a registered model."""

    INGESTED = "ingested"
    """Its files are in the repository; it is not analyzed yet."""
    ANALYZED = "analyzed"
    """Its profile is known; it was never loaded."""
    QUEUED = "queued"
    """It waits for memory to be loaded into."""
    LOADING = "loading"
    READY = "ready"
    SLEEPING = "sleeping"
    """Its device memory is released, and its engine process still runs (vLLM sleep)."""
    DRAINING = "draining"
    """Requests in flight finish; new ones wait."""
    UNLOADING = "unloading"
    UNLOADED = "unloaded"
    FAILED = "failed"
    """The last load or analysis failed; ``retry_at`` says when it may be tried again."""


S = ModelState

TRANSITIONS: Mapping[ModelState, frozenset[ModelState]] = MappingProxyType(
    {
        S.INGESTED: frozenset({S.ANALYZED, S.FAILED}),
        S.ANALYZED: frozenset({S.QUEUED, S.LOADING, S.FAILED, S.INGESTED}),
        S.QUEUED: frozenset({S.LOADING, S.UNLOADED, S.FAILED, S.INGESTED}),
        S.LOADING: frozenset({S.READY, S.QUEUED, S.FAILED, S.UNLOADING, S.UNLOADED}),
        S.READY: frozenset({S.DRAINING, S.UNLOADING, S.QUEUED, S.FAILED, S.SLEEPING}),
        S.SLEEPING: frozenset({S.LOADING, S.UNLOADING, S.FAILED}),
        S.DRAINING: frozenset({S.READY, S.UNLOADING, S.SLEEPING, S.FAILED}),
        S.UNLOADING: frozenset({S.UNLOADED, S.QUEUED, S.FAILED}),
        S.UNLOADED: frozenset({S.QUEUED, S.LOADING, S.FAILED, S.INGESTED}),
        S.FAILED: frozenset({S.QUEUED, S.LOADING, S.UNLOADED, S.UNLOADING, S.INGESTED}),
    }
)

SETTLED = frozenset({S.INGESTED, S.ANALYZED, S.QUEUED, S.UNLOADED, S.FAILED})
"""States in which a model holds no memory and no process."""

IN_TRANSITION = frozenset({S.LOADING, S.DRAINING, S.UNLOADING})
"""States that a model is in only while a task is at it."""

LEAVING = frozenset({S.DRAINING, S.UNLOADING})
"""States of models that are being taken out of memory."""


def check(current: ModelState, target: ModelState) -> None:
    """Raise `IllegalTransition` unless `TRANSITIONS` allows ``current`` → ``target``."""
    if target not in TRANSITIONS[current]:
        allowed = ", ".join(sorted(TRANSITIONS[current]))
        raise IllegalTransition(
            f"{current} → {target} is not a legal transition; from {current}: {allowed}"
        )
