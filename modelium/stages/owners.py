"""Which tasks of this process take which models from one state to another (no I/O here).

A state in transition without an owner is an orphan: its task has failed, was cancelled, or died
with an earlier process. `modelium.stages.settling` drives those on or back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from modelium.lifecycle import IN_TRANSITION, ModelState
from modelium.models import Model, Report

NEW = frozenset({ModelState.INGESTED, ModelState.ANALYZED})
"""States that a task takes a model out of: analysis, then a decision."""

GRACE_S = 5.0
"""A model is handed from one task to the next within this time: no orphan yet."""

RETRY_S = 5.0
"""Before an orphan is tried again; doubles with each attempt, up to `RETRY_LIMIT_S`."""

RETRY_LIMIT_S = 60.0


class Owners:
    """Counts the tasks at each model. Belongs to one event loop."""

    def __init__(self) -> None:
        """Start with none."""
        self._tasks: Counter[str] = Counter()

    def __contains__(self, model: str) -> bool:
        """Whether a task is at ``model``."""
        return self._tasks[model] > 0

    @contextmanager
    def of(self, *models: str) -> Iterator[None]:
        """Be at ``models`` while inside."""
        self._tasks.update(models)
        try:
            yield
        finally:
            self._tasks.subtract(models)
            for model in models:
                if not self._tasks[model]:
                    del self._tasks[model]

    def during(self, run: Awaitable[Report], *models: str) -> Awaitable[Report]:
        """Return ``run``, which is at ``models`` from its first to its last step."""
        return _Owned(owners=self, run=run, models=models)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Owned:
    owners: Owners
    run: Awaitable[Report]
    models: tuple[str, ...]

    def __await__(self) -> Generator[Any, None, Report]:
        with self.owners.of(*self.models):
            return (yield from self.run.__await__())

    def __str__(self) -> str:
        return str(self.run)


@dataclass(kw_only=True, slots=True)
class _Orphan:
    key: tuple[ModelState, float]
    due_at: float
    attempts: int = 0


class Orphans:
    """Says which models stand in a state that nobody takes them out of, and when each is tried.

    Times are monotonic: a wall clock that jumps makes no orphan.
    """

    def __init__(self, states: Collection[ModelState] = IN_TRANSITION) -> None:
        """Start with none; ``states``: those that no model stays in by itself."""
        self._states = states
        self._known: dict[str, _Orphan] = {}

    def due(
        self, models: Iterable[Model], owners: Owners, *, now: float, grace_s: float = GRACE_S
    ) -> tuple[str, ...]:
        """Return the orphans among ``models`` that are to be tried now, and count the attempt.

        Args:
            models: all of them, as the store has them.
            owners: the tasks of this process.
            now: monotonic seconds.
            grace_s: for so long a new orphan is left alone; 0 at the start of the service.
        """
        found = {}
        for model in models:
            if model.state not in self._states or model.name in owners:
                continue
            key, known = (model.state, model.state_since), self._known.get(model.name)
            if known is None or known.key != key:
                known = _Orphan(key=key, due_at=now + grace_s)
            found[model.name] = known
        self._known = {name: one for name, one in self._known.items() if name in owners} | found
        due = tuple(name for name, orphan in found.items() if orphan.due_at <= now)
        for name in due:
            orphan = found[name]
            orphan.due_at = now + min(RETRY_LIMIT_S, RETRY_S * 2.0**orphan.attempts)
            orphan.attempts += 1
        return due

    def attempts(self, model: str) -> int:
        """Return how often `due` has named ``model`` in its present state."""
        known = self._known.get(model)
        return known.attempts if known else 0
