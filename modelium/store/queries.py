"""Queries and changes inside a transaction that the store opened."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium import lifecycle
from modelium.errors import UnknownModel
from modelium.lifecycle import ModelState
from modelium.models import (
    Booking,
    Deployment,
    Load,
    MeasuredLoad,
    Model,
    ModelProfile,
    Preference,
    Queue,
    Reject,
    Removal,
    Setbacks,
    Unload,
    Wishes,
)
from modelium.models.base import base_name, instance_name
from modelium.store import schema
from modelium.store.documents import parsed
from modelium.store.row_cache import RowCache
from modelium.store.upsert import put
from modelium.store.wakeup import notify

NO_SETBACKS = Setbacks()

FORGIVEN: Mapping[str, Any] = MappingProxyType(
    {"failures": 0, "retry_at": None, "setbacks": sa.null()}
)
"""Columns of a model that has not failed."""


@contextmanager
def change(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that may alter what plans depend on; increments the revision."""
    with engine.begin() as tx:
        tx.execute(
            sa.update(schema.meta)
            .where(schema.meta.c.key == "revision")
            .values(value=schema.meta.c.value + 1)
        )
        notify(tx)
        yield tx


def unknown(name: str) -> UnknownModel:
    """Return the error for a name that no model has."""
    return UnknownModel(f"no model is called {name!r}; `modelium ls` lists the models")


def revision(tx: Connection) -> int:
    """Return the number of changes so far."""
    return int(
        tx.scalar(sa.select(schema.meta.c.value).where(schema.meta.c.key == "revision")) or 0
    )


class Marks(NamedTuple):
    """Counters that change with everything that a view of models and bookings shows."""

    revision: int
    seen: int


def marks(tx: Connection) -> Marks:
    """Return the number of changes, and of changes to measurements."""
    found = tx.execute(sa.select(schema.meta.c.key, schema.meta.c.value))
    counts = {row.key: int(row.value) for row in found}
    return Marks(revision=counts["revision"], seen=counts["seen"])


def update_model(name: str) -> sa.Update:
    """Return an update of one model's row."""
    return sa.update(schema.models).where(schema.models.c.name == name)


def approved(digest: str) -> sa.Select[tuple[str]]:
    """Return a query for what is allowed for one content."""
    return sa.select(schema.approvals.c.what).where(schema.approvals.c.digest == digest)


def last_version(name: str) -> sa.Select[tuple[int]]:
    """Return a query for the highest version number of a model."""
    return sa.select(sa.func.max(schema.versions.c.version)).where(schema.versions.c.model == name)


def next_version(tx: Connection, name: str) -> int:
    """Return the lowest number above all that are registered or reserved."""
    r = schema.reservations
    reserved = sa.select(sa.func.max(r.c.version)).where(r.c.model == name)
    return 1 + max(tx.scalar(last_version(name)) or 0, tx.scalar(reserved) or 0)


def unreserve(path: str) -> sa.Delete:
    """Return what drops the reservation of ``path``."""
    return sa.delete(schema.reservations).where(schema.reservations.c.path == path)


def path_of(name: str, version: int) -> sa.Select[tuple[str]]:
    """Return a query for the path of one version, kept or removed."""
    v = schema.versions
    return sa.select(v.c.path).where(v.c.model == name, v.c.version == version)


def state(tx: Connection, name: str) -> ModelState:
    """Return the state of a model; raises `UnknownModel`."""
    found = tx.scalar(sa.select(schema.models.c.state).where(schema.models.c.name == name))
    if found is None:
        raise unknown(name)
    return ModelState(found)


def transition(
    tx: Connection, name: str, target: ModelState, now: float, *, reason: str = "", **columns: Any
) -> None:
    """Move one model along the lifecycle table; ``columns`` change with it.

    Raises:
        IllegalTransition: the table has no such edge.
        UnknownModel: no model has that name.
    """
    lifecycle.check(state(tx, name), target)
    if target is not ModelState.QUEUED:
        columns.setdefault("queued_at", None)
    tx.execute(
        update_model(name).values(state=target.value, state_since=now, reason=reason, **columns)
    )


def book(tx: Connection, action: object, now: float) -> None:
    """Apply one accepted action to the tables."""
    match action:
        case Load():
            transition(tx, action.model, ModelState.LOADING, now, reason=action.reason)
            tx.execute(update_model(action.model).values(priority=action.priority.value))
            tx.execute(sa.delete(schema.bookings).where(schema.bookings.c.model == action.model))
            for device, held in action.reserve.items():
                tx.execute(
                    sa.insert(schema.bookings).values(
                        model=action.model,
                        device=device,
                        bytes=held,
                        resident_bytes=0,
                        releasing=False,
                    )
                )
            version = tx.scalar(
                sa.select(schema.models.c.version).where(schema.models.c.name == action.model)
            )
            version = version or 1
            save_deployment(
                tx,
                Deployment(
                    model=action.model,
                    version=version,
                    instance=instance_name(base_name(action.model), version),
                    runtime=action.runtime,
                    devices=action.devices,
                    settings=action.settings,
                    started_at=now,
                    begun=False,
                ),
            )
        case Unload():
            transition(tx, action.model, ModelState.DRAINING, now, reason=action.reason)
            tx.execute(
                sa.update(schema.bookings)
                .where(schema.bookings.c.model == action.model)
                .values(releasing=True)
            )
        case Queue():
            current = tx.execute(
                sa.select(schema.models.c.state, schema.models.c.queued_at).where(
                    schema.models.c.name == action.model
                )
            ).one()
            if current.state == ModelState.QUEUED:
                tx.execute(update_model(action.model).values(reason=action.reason))
            else:
                transition(
                    tx, action.model, ModelState.QUEUED, now, reason=action.reason, queued_at=now
                )
            tx.execute(update_model(action.model).values(priority=action.priority.value))
        case Reject():
            if state(tx, action.model) is not ModelState.FAILED:
                transition(tx, action.model, ModelState.FAILED, now)
            # It is refused, not failing: nobody tries it again by itself.
            tx.execute(update_model(action.model).values(reason=action.reason, **FORGIVEN))


def save_deployment(tx: Connection, deployment: Deployment) -> None:
    """Insert or replace the deployment of a model."""
    row = {
        "model": deployment.model,
        "runtime": deployment.runtime.value,
        "document": deployment.model_dump(mode="json"),
    }
    put(tx, schema.deployments, [row])


def prefer(tx: Connection, model: str, preference: Preference | None) -> None:
    """Store the preference for loading the current version of ``model``; ``None``: delete it."""
    current = sa.select(schema.models.c.version).where(schema.models.c.name == model)
    document = sa.null() if preference is None else preference.model_dump(mode="json")
    tx.execute(
        sa.update(schema.versions)
        .where(
            schema.versions.c.model == base_name(model),
            schema.versions.c.version == current.scalar_subquery(),
        )
        .values(preference=document)
    )


def prove_only(tx: Connection, model: str, version: int, now: float) -> None:
    """Count a version that was loaded as proven, where there is no other one to return to."""
    v = schema.versions
    other = sa.select(v.c.version).where(
        v.c.model == model,
        v.c.version != version,
        v.c.proven_at.is_not(None),
        v.c.removed_at.is_(None),
    )
    if tx.scalar(other.limit(1)) is None:
        tx.execute(
            sa.update(v)
            .where(v.c.model == model, v.c.version == version, v.c.proven_at.is_(None))
            .values(proven_at=now)
        )


def deployment(tx: Connection, name: str) -> Deployment | None:
    """Return the deployment of one row, where it has one."""
    query = sa.select(schema.deployments.c.document).where(schema.deployments.c.model == name)
    document = tx.scalar(query)
    return None if document is None else parsed(Deployment, document)


def bookings(tx: Connection, names: Collection[str] | None = None) -> tuple[Booking, ...]:
    """Return all bookings, or those of models ``names``.

    A model that is loaded holds something: 0 in its row says that nobody has found out how much.
    """
    table, models = schema.bookings, schema.models
    query = sa.select(table, models.c.state).join(models, models.c.name == table.c.model)
    if names is not None:
        query = query.where(table.c.model.in_(names))
    found = []
    for row in tx.execute(query.order_by(table.c.model)).mappings():
        fields = dict(row)
        loading = fields.pop("state") == ModelState.LOADING
        fields["resident_bytes"] = fields["resident_bytes"] or (0 if loading else None)
        found.append(parsed(Booking, fields))
    return tuple(found)


def models(
    tx: Connection,
    name: str | None = None,
    cache: RowCache | None = None,
    *,
    names: Collection[str] | None = None,
) -> tuple[Model, ...]:
    """Return models with deployment, approvals and measurements, at their current version.

    ``name``, ``names``: which; default: all.
    """
    names = names if name is None else (name,)
    m, v = schema.models, schema.versions
    columns = [column for column in m.c if column.name not in ("removal", "setbacks")]
    of_version = v.c.path, v.c.digest, _text(v.c.profile), _text(v.c.preference), _text(v.c.wishes)
    proven = v.c.proven_at.is_not(None).label("proven")
    base = sa.func.coalesce(m.c.twin_of, m.c.name)
    documents = _text(m.c.removal), _text(m.c.setbacks)
    query = sa.select(*columns, *documents, *of_version, proven).join(
        v, sa.and_(v.c.model == base, v.c.version == m.c.version)
    )
    deployed = sa.select(schema.deployments.c.model, _text(schema.deployments.c.document))
    allowed = sa.select(schema.approvals.c.digest, schema.approvals.c.what)
    loads = sa.select(schema.measured)
    if names is not None:
        query = query.where(m.c.name.in_(names))
        deployed = deployed.where(schema.deployments.c.model.in_(names))
        allowed = allowed.join(v, v.c.digest == schema.approvals.c.digest).where(
            v.c.model.in_({base_name(one) for one in names})
        )
        loads = loads.where(schema.measured.c.model.in_(names))
    deployments = {row.model: row.document for row in tx.execute(deployed)}
    approvals: dict[str, set[str]] = {}
    for row in tx.execute(allowed):
        approvals.setdefault(row.digest, set()).add(row.what)
    measured: dict[str, list[Any]] = {}
    for known in tx.execute(loads):
        measured.setdefault(known.model, []).append(known)
    keep = cache or RowCache()

    def model(row: Any) -> Model:
        name = row.name
        deployment, loaded = deployments.get(name), measured.get(name, ())
        allows = frozenset(approvals.get(row.digest, ()))
        return keep.made(
            Model,
            name,
            (tuple(row), deployment, allows, tuple(loaded)),
            lambda: parsed(
                Model,
                {
                    **row._mapping,
                    "profile": keep.read(ModelProfile, name, row.profile),
                    "preference": keep.read(Preference, name, row.preference),
                    "wishes": keep.read(Wishes, name, row.wishes),
                    "removal": keep.read(Removal, name, row.removal),
                    "setbacks": keep.read(Setbacks, name, row.setbacks) or NO_SETBACKS,
                    "deployment": keep.read(Deployment, name, deployment),
                    "approvals": allows,
                    "measured": tuple(_measured(load) for load in loaded),
                },
            ),
        )

    return tuple(model(row) for row in tx.execute(query.order_by(m.c.name)))


def _measured(row: Any) -> MeasuredLoad:
    return parsed(MeasuredLoad, {k: v for k, v in row._mapping.items() if k != "model"})


def _text(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Return a JSON column as stored text: drivers do not parse what is cast."""
    return sa.cast(column, sa.Text).label(column.name)
