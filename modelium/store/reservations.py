"""Version numbers that are promised to drops before their folders get their names.

Between the two, a crash may leave a folder in the repository that no version is registered for:
its reservation says what it is. Every method is one transaction and blocks.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from modelium.errors import Unavailable
from modelium.models import Reservation
from modelium.store import queries, schema
from modelium.store.connection import reading
from modelium.store.documents import parsed


class Reservations:
    """Adds, lists and drops reservations; registering the version drops its own."""

    def __init__(self, *, engine: Engine) -> None:
        """Read and write with ``engine``."""
        self._engine = engine

    def add(self, reservation: Reservation) -> None:
        """Promise a version number.

        Raises:
            Unavailable: it is taken, or promised to another drop.
        """
        model, version = reservation.model, reservation.version
        taken = Unavailable(f"version {version} of {model} is taken by another drop; try again")
        try:
            with self._engine.begin() as tx:
                if tx.scalar(queries.path_of(model, version)) is not None:
                    raise taken
                tx.execute(sa.insert(schema.reservations).values(**reservation.model_dump()))
        except sa.exc.IntegrityError as exc:
            raise taken from exc

    def all(self, model: str | None = None) -> list[Reservation]:
        """Return those of ``model``, or all, by name and version."""
        r = schema.reservations
        query = sa.select(r).order_by(r.c.model, r.c.version)
        if model is not None:
            query = query.where(r.c.model == model)
        with reading(self._engine) as tx:
            return [parsed(Reservation, dict(row)) for row in tx.execute(query).mappings()]

    def drop(self, reservation: Reservation) -> None:
        """Take a promise back; the number may be given again."""
        with self._engine.begin() as tx:
            tx.execute(queries.unreserve(reservation.path))
