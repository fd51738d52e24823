"""What nodes ask of the one that plans. Methods are short transactions, and block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from modelium.store import schema
from modelium.store.connection import own_rows, reading
from modelium.store.lease import database_time
from modelium.store.wakeup import notify

KEPT_S = 600.0
"""For which a question is kept, answered or not: nobody waits for it any more."""


class Asked(NamedTuple):
    """A question that is not answered yet."""

    id: str
    node: str
    document: Mapping[str, Any]


class QuestionLog:
    """Questions and their answers, both JSON documents."""

    def __init__(self, *, engine: Engine) -> None:
        """Read and write with ``engine``."""
        self._engine = engine

    def ask(self, id: str, *, node: str, document: Mapping[str, Any]) -> None:
        """Store a question."""
        with own_rows(self._engine) as tx:
            row = {"id": id, "node": node, "at": database_time(tx), "document": dict(document)}
            tx.execute(sa.insert(schema.questions).values(**row))
            notify(tx)

    def open(self) -> tuple[Asked, ...]:
        """Return what is not answered yet, the oldest first.

        What was asked long ago is left: a plan that nobody waits for would surprise.
        """
        table = schema.questions
        query = sa.select(table.c.id, table.c.node, table.c.document)
        with reading(self._engine) as tx:
            fresh = table.c.at > database_time(tx) - KEPT_S
            waiting = query.where(table.c.answered_at.is_(None), fresh)
            waiting = waiting.order_by(table.c.at, table.c.id)
            return tuple(Asked(row.id, row.node, row.document) for row in tx.execute(waiting))

    def answer(self, id: str, document: Mapping[str, Any]) -> None:
        """Answer a question; the first answer stands."""
        table = schema.questions
        with own_rows(self._engine) as tx:
            unanswered = sa.and_(table.c.id == id, table.c.answered_at.is_(None))
            fresh = {"answered_at": database_time(tx), "answer": dict(document)}
            tx.execute(sa.update(table).where(unanswered).values(**fresh))
            notify(tx)

    def answered(self, id: str) -> Mapping[str, Any] | None:
        """Return the answer to a question; ``None``: there is none yet."""
        with reading(self._engine) as tx:
            found: Mapping[str, Any] | None = tx.scalar(
                sa.select(schema.questions.c.answer).where(schema.questions.c.id == id)
            )
            return found

    def forget(self, id: str) -> None:
        """Drop a question that nobody waits for any more."""
        with own_rows(self._engine) as tx:
            tx.execute(sa.delete(schema.questions).where(schema.questions.c.id == id))

    def prune(self) -> None:
        """Delete old ones, whose askers are gone."""
        table = schema.questions
        with own_rows(self._engine) as tx:
            tx.execute(sa.delete(table).where(table.c.at < database_time(tx) - KEPT_S))
