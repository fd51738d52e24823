"""What a plan relies on, so that changes of anything else do not make it stale."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from modelium.models import Fleet, Model, Plan
from modelium.store import schema

COLUMNS = (
    "version",
    "state",
    "state_since",
    "team",
    "priority_ceiling",
    "pinned",
    "failures",
    "retry_at",
    "twin_of",
)


class Basis(NamedTuple):
    """The models that a plan acts on, and the bookings on the devices that it loads on.

    One node at a time plans, and one plan at a time is accepted: what others change meanwhile can
    only free memory elsewhere, or move models that the plan says nothing about.
    """

    models: dict[str, tuple[object, ...]]
    """Name → values of `COLUMNS`, and whether it is being removed."""
    bookings: frozenset[tuple[str, str, int]]
    """Model, device and bytes."""

    @classmethod
    def of(cls, plan: Plan, fleet: Fleet) -> Basis:
        """Return what ``plan`` relies on as ``fleet`` shows it."""
        known = fleet.models_by_name
        acted_on = {action.model for action in plan.actions}
        devices = {device for load in plan.loads for device in load.reserve}
        return cls(
            models={name: _values(known[name]) for name in acted_on if name in known},
            bookings=frozenset(
                (b.model, b.device, b.bytes)
                for device in devices
                for b in fleet.bookings_by_device.get(device, ())
            ),
        )

    def holds(self, tx: Connection, plan: Plan) -> bool:
        """Whether all of it still is as it was."""
        table, booked = schema.models, schema.bookings
        columns = [table.c[name] for name in COLUMNS]
        query = sa.select(table.c.name, *columns, table.c.removal.is_not(sa.null()))
        rows = tx.execute(query.where(table.c.name.in_(self.models))).all()
        if {row[0]: tuple(row[1:]) for row in rows} != self.models:
            return False
        devices = {device for load in plan.loads for device in load.reserve}
        found = tx.execute(
            sa.select(booked.c.model, booked.c.device, booked.c.bytes).where(
                booked.c.device.in_(devices)
            )
        )
        return {(row.model, row.device, row.bytes) for row in found} <= self.bookings


def _values(model: Model) -> tuple[object, ...]:
    values = tuple(getattr(model, name) for name in COLUMNS)
    return (*values, model.removal is not None)
