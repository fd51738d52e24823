"""Two versions of a model side by side. Every method is one short transaction and blocks.

The model's own row is the version that the gateway serves. The other version has a row of its
own, the twin (`Model.twin_of`), with a state, a deployment and bookings like any model: it is
planned, validated, loaded, evicted and recovered as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium.errors import IllegalTransition
from modelium.lifecycle import SETTLED, ModelState
from modelium.models import Model
from modelium.models.base import twin_name
from modelium.store import queries, schema

CARRIED = ("registered_at", "team", "priority", "priority_ceiling")
"""What a twin has of its model. It is not pinned: twins are never evicted for others anyway."""


class Twins:
    """Creates, exchanges and drops twins."""

    def __init__(self, *, engine: Engine, now: Callable[[], float]) -> None:
        """Read and write with ``engine``; ``now``: seconds since the epoch."""
        self._engine = engine
        self._now = now

    def stand_by(self, model: str) -> Model:
        """Return the twin that the current version of ``model`` is loaded as, ANALYZED at first.

        Raises:
            UnknownModel: no model has that name.
        """
        with queries.change(self._engine) as tx:
            own = self._row(tx, model)
            name = twin_name(model, own["version"])
            if not queries.models(tx, name):
                self._insert(tx, name, own, version=own["version"], state=ModelState.ANALYZED)
            return queries.models(tx, name)[0]

    def exchange(self, model: str, twin: str, *, reason: str) -> Model:
        """Let the loaded ``twin`` serve as ``model``, and what served so far stand by; return it.

        The version of ``twin`` becomes the current one. What served so far becomes the twin
        (`twin_name` of its version), still loaded; where nothing did, no twin is left.

        Raises:
            IllegalTransition: one of them is on its way to another state, or is being removed.
        """
        now = self._now()
        with queries.change(self._engine) as tx:
            (old,), (new,) = queries.models(tx, model), queries.models(tx, twin)
            ready = new.state in (ModelState.LOADING, ModelState.READY) and new.deployment
            if not ready or old.removal or old.state not in {*SETTLED, ModelState.READY}:
                raise IllegalTransition(f"{model} is {old.state} and {twin} is {new.state}")
            row = self._row(tx, model)
            tx.execute(sa.delete(schema.models).where(schema.models.c.name == twin))
            other = None
            if old.deployment is not None:
                other = twin_name(model, old.deployment.version)
                version = old.deployment.version
                self._insert(tx, other, row, version=version, state=ModelState.READY)
                tx.execute(queries.update_model(other).values(reason=reason))
                _rename(tx, model, other)
            _rename(tx, twin, model)
            tx.execute(
                queries.update_model(model).values(
                    version=new.version,
                    state=ModelState.READY.value,
                    state_since=now,
                    reason=reason,
                    queued_at=None,
                    **queries.FORGIVEN,
                )
            )
            return queries.models(tx, model)[0]

    def drop(self, twin: str) -> None:
        """Delete a twin of which nothing is loaded; one that is gone is fine.

        Raises:
            IllegalTransition: it is loaded.
        """
        with queries.change(self._engine) as tx:
            found = next(iter(queries.models(tx, twin)), None)
            if found is None:
                return
            if found.twin_of is None or found.state not in SETTLED or found.deployment:
                raise IllegalTransition(f"{twin} is {found.state}, and cannot be dropped")
            for table in (schema.bookings, schema.measured):
                tx.execute(sa.delete(table).where(table.c.model == twin))
            tx.execute(sa.delete(schema.models).where(schema.models.c.name == twin))

    def _row(self, tx: Connection, model: str) -> dict[str, Any]:
        query = sa.select(schema.models).where(schema.models.c.name == model)
        found = tx.execute(query).mappings().one_or_none()
        if found is None:
            raise queries.unknown(model)
        return dict(found)

    def _insert(
        self, tx: Connection, name: str, own: dict[str, Any], *, version: int, state: ModelState
    ) -> None:
        tx.execute(
            sa.insert(schema.models).values(
                name=name,
                twin_of=own["name"],
                version=version,
                state=state.value,
                state_since=self._now(),
                pinned=False,
                failures=0,
                reason="",
                **{column: own[column] for column in CARRIED},
            )
        )


def _rename(tx: Connection, old: str, new: str) -> None:
    """Give deployment and bookings of the row ``old`` to the row ``new``."""
    found = queries.deployment(tx, old)
    tx.execute(sa.delete(schema.deployments).where(schema.deployments.c.model == old))
    if found is not None:
        queries.save_deployment(tx, found.model_copy(update={"model": new}))
    tx.execute(sa.update(schema.bookings).where(schema.bookings.c.model == old).values(model=new))
