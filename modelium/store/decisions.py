"""The log of decisions. Every method is one short transaction and blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium.errors import InputError
from modelium.models import Decision
from modelium.models.base import base_name
from modelium.store import schema
from modelium.store.connection import reading
from modelium.store.documents import parsed
from modelium.store.upsert import put, put_missing

KEPT = 20_000
"""Decisions that `prune` leaves: about 60 MB at the usual size."""


class DecisionLog:
    """Records decisions and how they ended."""

    def __init__(self, *, engine: Engine, now: Callable[[], float]) -> None:
        """``now``: seconds since the epoch."""
        self._engine = engine
        self._now = now

    def record(self, decision: Decision) -> None:
        """Insert or replace ``decision``."""
        with self._engine.begin() as tx:
            save_decision(tx, decision)

    def finish(
        self, decision_id: str, *, outcome: Literal["done", "failed"], detail: str = ""
    ) -> None:
        """Note how a decision ended; the first failure stands."""
        with self._engine.begin() as tx:
            row = tx.scalar(_document(decision_id))
            if row is None or row["outcome"] == "failed":
                return
            ended = {**row, "outcome": outcome, "detail": detail, "finished_at": self._now()}
            save_decision(tx, parsed(Decision, ended))

    def abandon(self, decision_id: str, *, detail: str) -> None:
        """Mark a decision that is still open as failed; a finished one stays as it is."""
        with self._engine.begin() as tx:
            row = tx.scalar(_document(decision_id))
            if row is not None and row["outcome"] == "accepted":
                ended = {"outcome": "failed", "detail": detail, "finished_at": self._now()}
                save_decision(tx, parsed(Decision, {**row, **ended}))

    def accepted(self, since: float) -> list[Decision]:
        """Return the decisions since ``since`` (epoch) that have not ended, the oldest first."""
        table = schema.decisions
        query = sa.select(table.c.document).where(
            table.c.at >= since, table.c.document["outcome"].as_string() == "accepted"
        )
        with reading(self._engine) as tx:
            return [parsed(Decision, row) for row in tx.scalars(query.order_by(table.c.at))]

    def get(self, decision_id: str) -> Decision:
        """Return one decision.

        Raises:
            InputError: no decision has that id.
        """
        with reading(self._engine) as tx:
            row = tx.scalar(_document(decision_id))
        if row is None:
            raise InputError(f"no decision has the id {decision_id!r}")
        return parsed(Decision, row)

    def newest(
        self, *, model: str | None = None, advised: bool = False, limit: int = 20
    ) -> list[Decision]:
        """Return decisions, the newest first.

        Args:
            model: only those that name it.
            advised: only those that an LLM was asked for.
            limit: at most so many.
        """
        document = schema.decisions.c.document
        query = sa.select(document).order_by(schema.decisions.c.at.desc())
        if advised:
            query = query.where(document["trace"]["endpoint"].as_string().is_not(None))
        if model is not None:
            query = query.join(
                schema.decision_models, schema.decision_models.c.decision == schema.decisions.c.id
            ).where(schema.decision_models.c.model == model)
        with reading(self._engine) as tx:
            return [parsed(Decision, row) for row in tx.scalars(query.limit(limit))]

    def prune(self) -> None:
        """Delete all but the newest `KEPT`."""
        table, link = schema.decisions, schema.decision_models
        with self._engine.begin() as tx:
            oldest = tx.scalar(
                sa.select(table.c.at).order_by(table.c.at.desc()).offset(KEPT).limit(1)
            )
            if oldest is not None:
                gone = sa.select(table.c.id).where(table.c.at <= oldest)
                tx.execute(sa.delete(link).where(link.c.decision.in_(gone)))
                tx.execute(sa.delete(table).where(table.c.at <= oldest))


def save_decision(tx: Connection, decision: Decision) -> None:
    """Insert or replace ``decision`` inside the transaction ``tx``."""
    document = decision.model_dump(mode="json")
    put(tx, schema.decisions, [{"id": decision.id, "at": decision.at, "document": document}])
    named = {action.model for action in decision.plan.actions}
    named |= {departure.model for departure in decision.plan.departures}
    named |= {decision.plan.subject} if decision.plan.subject else set()
    named |= {base_name(name) for name in named}
    put_missing(
        tx,
        schema.decision_models,
        [{"decision": decision.id, "model": model} for model in sorted(named)],
    )


def _document(decision_id: str) -> sa.Select[tuple[dict[str, object]]]:
    return sa.select(schema.decisions.c.document).where(schema.decisions.c.id == decision_id)
