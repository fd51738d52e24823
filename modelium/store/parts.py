"""Parts of models that are loaded over several nodes. Methods are short transactions, and block.

The node that answers for a model writes orders, the node of each part reports; an order that was
replaced takes no reports any more.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from modelium.models.parts import Part
from modelium.store import queries, schema
from modelium.store.connection import reading
from modelium.store.documents import parsed
from modelium.store.lease import database_time
from modelium.store.upsert import put


class PartTable:
    """The rows that nodes of one model tell each other by."""

    def __init__(self, *, engine: Engine) -> None:
        """Read and write with ``engine``."""
        self._engine = engine

    def want(self, parts: Iterable[Part]) -> None:
        """Order ``parts``; the next time that their nodes look, they load them."""
        with queries.change(self._engine) as tx:
            put(tx, schema.parts, [_row(part) for part in parts])

    def report(self, part: Part) -> bool:
        """Store what ``part`` has become; False: it was ordered to end, or replaced."""
        table, row = schema.parts, _row(part)
        with queries.change(self._engine) as tx:
            same = sa.and_(table.c.node == part.node, table.c.model == part.model)
            open_ = sa.and_(same, table.c.id == part.id, table.c.state != "ending")
            fresh = {"state": row["state"], "document": row["document"]}
            return bool(tx.execute(sa.update(table).where(open_).values(**fresh)).rowcount)

    def end(self, model: str) -> None:
        """Order all parts of ``model`` to end."""
        table = schema.parts
        with queries.change(self._engine) as tx:
            tx.execute(sa.update(table).where(table.c.model == model).values(state="ending"))

    def ended(self, part: Part) -> None:
        """Note that its node runs nothing of ``part`` any more."""
        with queries.change(self._engine) as tx:
            tx.execute(sa.delete(schema.parts).where(_is(part)))

    def stray(self, part: Part) -> None:
        """Leave ``part`` to its silent node, which clears it before anything is loaded there."""
        with queries.change(self._engine) as tx:
            row = {
                "node": part.node,
                "model": part.model,
                "at": database_time(tx),
                "document": part.deployment.model_dump(mode="json"),
            }
            put(tx, schema.strays, [row])
            tx.execute(sa.delete(schema.parts).where(_is(part)))

    def of(self, model: str) -> tuple[Part, ...]:
        """Return the parts of ``model``."""
        return self._read(schema.parts.c.model == model)

    def on(self, node: str) -> tuple[Part, ...]:
        """Return the parts that ``node`` has to load, runs, or has to end."""
        return self._read(schema.parts.c.node == node)

    def _read(self, which: sa.ColumnElement[bool]) -> tuple[Part, ...]:
        table = schema.parts
        query = sa.select(table.c.state, table.c.document).where(which)
        with reading(self._engine) as tx:
            found = tx.execute(query.order_by(table.c.model, table.c.node)).all()
        return tuple(parsed(Part, {**row.document, "state": row.state}) for row in found)


def _is(part: Part) -> sa.ColumnElement[bool]:
    table = schema.parts
    return sa.and_(table.c.node == part.node, table.c.model == part.model, table.c.id == part.id)


def _row(part: Part) -> dict[str, object]:
    return {
        "node": part.node,
        "model": part.model,
        "id": part.id,
        "state": part.state,
        "document": part.model_dump(mode="json"),
    }
