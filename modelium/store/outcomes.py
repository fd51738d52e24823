"""What came of decisions, as the store tells it. Every method is one short transaction and blocks.

Nothing is stored for it: decisions, events, requests and profiles say it all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium.models import Event, RuntimeName, Trigger
from modelium.models.base import base_name
from modelium.models.outcomes import ClassFailures, ModelClass, Outcome
from modelium.models.profile import ModelFormat
from modelium.outcomes import attempts, derivation
from modelium.outcomes.attempts import Setup
from modelium.outcomes.derivation import Step
from modelium.store import schema
from modelium.store.connection import reading
from modelium.store.documents import parsed

BOOKED = ("accepted", "done", "failed")
"""Outcomes of decisions that were carried out, at least in part."""

MOST_MODELS = 100
"""Models whose outcomes can be asked for at once."""

HOUR_S = 3600.0

Identity = tuple[str, int]
"""Model and version."""


class OutcomeLog:
    """Derives outcomes. It keeps the recent attempts to load, as each snapshot asks for them."""

    def __init__(self, *, engine: Engine, now: Callable[[], float]) -> None:
        """``now``: seconds since the epoch."""
        self._engine = engine
        self._now = now
        self._lock = threading.Lock()
        self._read_to = 0
        """Id of the last event that was looked at."""
        self._attempts: tuple[Event, ...] = ()
        self._classes: dict[Identity, ModelClass] = {}
        self._told: tuple[Any, tuple[ClassFailures, ...]] = None, ()

    def class_failures(
        self, since: float, setups: Mapping[RuntimeName, Setup]
    ) -> tuple[ClassFailures, ...]:
        """Return the classes of models whose last loads in a runtime failed; see `attempts`.

        Only what has happened since the last call is read.

        Args:
            since: of the oldest attempts that count (epoch seconds).
            setups: runtime → what it is now.
        """
        with self._lock:
            with reading(self._engine) as tx:
                self._read_on(tx, since)
            known = tuple(e.id for e in self._attempts), dict(setups)
            if self._told[0] != known:
                found = attempts.class_failures(
                    self._attempts, classes=self._classes, setups=setups
                )
                self._told = known, found
            return self._told[1]

    def all(self, *, since: float = 0.0) -> list[Outcome]:
        """Return the outcomes of the decisions since ``since`` (epoch), the oldest first."""
        with reading(self._engine) as tx:
            steps = [s for row in tx.execute(_decisions(since)) for s in _steps(row)]
            return self._outcomes(tx, steps, None)

    def of_models(self, models: Collection[str], *, limit: int = 20) -> list[Outcome]:
        """Return outcomes of decisions on ``models``, the newest first.

        Args:
            models: at most `MOST_MODELS` are looked at.
            limit: at most so many.
        """
        names = sorted({base_name(model) for model in models})[:MOST_MODELS]
        if not names:
            return []
        link = schema.decision_models.c
        about = sa.select(link.decision).where(link.model.in_(names))
        query = _decisions(0.0).where(schema.decisions.c.id.in_(about))
        # One more than asked for tells how the model was left before the first of them.
        newest = query.order_by(None).order_by(schema.decisions.c.at.desc()).limit(2 * limit + 1)
        with reading(self._engine) as tx:
            rows = reversed(tx.execute(newest).all())
            steps = [s for row in rows for s in _steps(row) if base_name(s.model) in names]
            return self._outcomes(tx, steps, names)[::-1][:limit]

    def oldest(self) -> float | None:
        """Return when the oldest decision was made that is kept; ``None``: there is none."""
        with reading(self._engine) as tx:
            found: float | None = tx.scalar(sa.select(sa.func.min(schema.decisions.c.at)))
            return found

    # --- inside ---------------------------------------------------------------------------

    def _outcomes(
        self, tx: Connection, steps: Sequence[Step], models: Collection[str] | None
    ) -> list[Outcome]:
        if not steps:
            return []
        e = schema.events.c
        query = sa.select(schema.events).where(e.kind.in_(derivation.KINDS), e.at >= steps[0].at)
        if models is not None:
            query = query.where(e.model.in_(models))
        rows = tx.execute(query.order_by(e.id)).mappings()
        told = [Event.model_construct(**dict(row)) for row in rows]

        def first_request(model: str, since: float, until: float) -> float | None:
            return _first_request(tx, model, since, until)

        return derivation.outcomes(steps, told, first_request=first_request, now=self._now())

    def _read_on(self, tx: Connection, since: float) -> None:
        """Read the attempts that were stored since, and the classes of their models."""
        e = schema.events.c
        newest = tx.scalar(sa.select(sa.func.max(e.id))) or 0
        fresh: list[Event] = []
        if newest != self._read_to:
            query = sa.select(schema.events).where(
                e.id > self._read_to, e.id <= newest, e.kind.in_(attempts.KINDS), e.at >= since
            )
            rows = tx.execute(query.order_by(e.id)).mappings()
            fresh = [Event.model_construct(**dict(row)) for row in rows]
        kept = [event for event in self._attempts if event.at >= since]
        if fresh or len(kept) != len(self._attempts):
            self._attempts = (*kept, *fresh)
            needed = {i for event in self._attempts if (i := _identity(event)) is not None}
            known = {i: c for i, c in self._classes.items() if i in needed}
            self._classes = known | _classes(tx, needed - known.keys())
        self._read_to = newest


def _decisions(since: float) -> sa.Select[Any]:
    """Return a query for what is needed of the booked decisions, the oldest first."""
    d = schema.decisions.c
    return (
        sa.select(
            d.id,
            d.at,
            d.document["plan"].label("plan"),
            d.document["outcome"].as_string().label("outcome"),
            d.document["detail"].as_string().label("detail"),
        )
        .where(d.at >= since, d.document["outcome"].as_string().in_(BOOKED))
        .order_by(d.at)
    )


def _steps(row: Any) -> list[Step]:
    """Return the actions of a decision that do something. Its plan is read without validation."""
    plan = row.plan
    return [
        Step(
            decision=row.id,
            at=row.at,
            author=plan["author"],
            trigger=Trigger(plan["trigger"]),
            fallback=bool(plan.get("fallback")),
            model=action["model"],
            action=action["action"],
            runtime=action.get("runtime"),
            cause=action.get("cause", ""),
            failure=(row.detail or "it failed") if row.outcome == "failed" else "",
        )
        for action in plan["actions"]
        if action["action"] in ("load", "unload", "queue")
    ]


def _first_request(tx: Connection, model: str, since: float, until: float) -> float | None:
    """Return when ``model`` was requested first in that time, as far as requests are recorded.

    The request log has the instant; where it is off, or requests bypassed the gateway, the hourly
    traffic tells the hour.
    """
    log, hours = schema.requests.c, schema.rollups.c
    exact = tx.scalar(
        sa.select(sa.func.min(log.at)).where(log.model == model, log.at >= since, log.at < until)
    )
    # The hour that ``since`` is in may have had its requests before.
    hour = tx.scalar(
        sa.select(sa.func.min(hours.hour)).where(
            hours.model == model,
            hours.hour > since // HOUR_S,
            hours.hour * HOUR_S < until,
            hours.requests > 0,
        )
    )
    if exact is not None and (hour is None or exact < (hour + 1) * HOUR_S):
        return float(exact)  # the hour begins before the request that it counts
    return None if hour is None else hour * HOUR_S


def _identity(event: Event) -> Identity | None:
    version = event.detail.get("version")
    return (event.model, version) if event.model and isinstance(version, int) else None


def _classes(tx: Connection, identities: Collection[Identity]) -> dict[Identity, ModelClass]:
    """Return the classes of those versions whose profile is known."""
    v = schema.versions.c
    found = {}
    for model, version in identities:
        row = tx.execute(
            sa.select(
                v.profile["format"].as_string().label("format"),
                v.profile["architecture"].as_string().label("architecture"),
                v.profile["quantization"].as_string().label("quantization"),
            ).where(v.model == model, v.version == version)
        ).one_or_none()
        if row is not None and row.format in list(ModelFormat):
            found[model, version] = parsed(ModelClass, dict(row._mapping))
    return found
