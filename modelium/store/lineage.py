"""The versions of each model, kept and removed. Every method is one transaction and blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium.errors import IllegalTransition, InputError, Unavailable
from modelium.lifecycle import SETTLED, ModelState
from modelium.models import Model, ModelProfile, Removal, Version
from modelium.store import queries, schema
from modelium.store.connection import reading
from modelium.store.documents import parsed


class Lineage:
    """Chooses and removes versions; what was removed stays on record.

    A model that is being removed keeps its row, with `Model.removal`, until nothing of it is
    loaded. A version that is removed keeps its row for good.
    """

    def __init__(self, *, engine: Engine, now: Callable[[], float]) -> None:
        """Read and write with ``engine``; ``now``: seconds since the epoch."""
        self._engine = engine
        self._now = now

    def versions(self, model: str | None = None, *, removed: bool = False) -> list[Version]:
        """Return the versions of ``model``, or of all, the newest first.

        ``removed``: those that were removed instead of those that are kept.
        """
        v = schema.versions
        query = sa.select(v).where(v.c.removed_at.is_not(None) if removed else _kept())
        if model is not None:
            query = query.where(v.c.model == model)
        with reading(self._engine) as tx:
            rows = tx.execute(query.order_by(v.c.model, v.c.version.desc())).mappings()
            return [
                parsed(Version, {field: row[field] for field in Version.model_fields})
                for row in rows
            ]

    def next_version(self, name: str) -> int:
        """Return the number that the next registered version of ``name`` gets."""
        with reading(self._engine) as tx:
            return queries.next_version(tx, name)

    def paths(self) -> dict[str, tuple[str, int]]:
        """Return path → name and version, of old versions and of removed ones in place, too."""
        v = schema.versions.c
        with reading(self._engine) as tx:
            found = tx.execute(sa.select(v.path, v.model, v.version))
            return {row.path: (row.model, row.version) for row in found}

    def relocate(self, name: str, version: int, *, digest: str, path: Path) -> bool:
        """Note that a version lies at another path now; False where it has another content."""
        v = schema.versions
        with queries.change(self._engine) as tx:
            where = sa.and_(
                v.c.model == name,
                v.c.version == version,
                v.c.digest == digest,
                v.c.removed_at.is_(None),
            )
            return bool(tx.execute(sa.update(v).where(where).values(path=str(path))).rowcount)

    def set_profile(self, name: str, version: int, profile: ModelProfile) -> None:
        """Store what analysis found in the files of one version."""
        with queries.change(self._engine) as tx:
            tx.execute(
                sa.update(schema.versions)
                .where(schema.versions.c.model == name, schema.versions.c.version == version)
                .values(profile=profile.model_dump(mode="json"))
            )

    def begin_removal(self, model: str, *, by: str, purge: bool) -> Model:
        """Note that ``model`` is to be removed; it leaves the queue. Repeated: changes nothing.

        Raises:
            UnknownModel: no model has that name.
        """
        removal = Removal(by=by, at=self._now(), purge=purge)
        with queries.change(self._engine) as tx:
            state = queries.state(tx, model)
            found = queries.models(tx, model)[0]
            if found.removal is None:
                if state is ModelState.QUEUED:
                    queries.transition(tx, model, ModelState.UNLOADED, self._now())
                both = sa.or_(schema.models.c.name == model, schema.models.c.twin_of == model)
                tx.execute(
                    sa.update(schema.models)
                    .where(both)
                    .values(
                        removal=removal.model_dump(mode="json"),
                        reason=f"being removed; {by} asked for it",
                    )
                )
            return queries.models(tx, model)[0]

    def finish_removal(self, model: str) -> list[Version]:
        """Forget a model after `begin_removal`; return the versions that went with it.

        Their files are to be moved afterwards.

        Raises:
            IllegalTransition: something of it is loaded, or nobody asked for its removal.
        """
        with queries.change(self._engine) as tx:
            found = next(iter(queries.models(tx, model)), None)
            if found is None:
                return []
            twins = sa.select(schema.models.c.name).where(schema.models.c.twin_of == model)
            if twin := tx.scalar(twins):
                raise IllegalTransition(f"{twin} is to be dropped before {model} is forgotten")
            if found.removal is None or found.state not in SETTLED or found.deployment:
                raise IllegalTransition(f"{model} is {found.state}, and cannot be forgotten")
            kept = self._mark(tx, model, None, by=found.removal.by, purge=found.removal.purge)
            for table in (schema.bookings, schema.measured, schema.traffic, schema.standings):
                tx.execute(sa.delete(table).where(table.c.model == model))
            tx.execute(sa.delete(schema.models).where(schema.models.c.name == model))
        return [v for v in self.versions(model, removed=True) if v.version in kept]

    def retire(self, model: str, versions: Iterable[int], *, by: str, purge: bool = False) -> None:
        """Remove single versions, of which none may be the current one or loaded.

        Raises:
            InputError: one of them is in use, or is not kept.
        """
        wanted = set(versions)
        with queries.change(self._engine) as tx:
            twins = tx.scalars(
                sa.select(schema.models.c.name).where(schema.models.c.twin_of == model)
            ).all()
            for found in (m for name in (model, *twins) for m in queries.models(tx, name)):
                used = {found.version}
                used |= {found.deployment.version} if found.deployment else set()
                if used & wanted:
                    number = min(used & wanted)
                    raise InputError(f"version {number} of {model} is in use")
            if missing := wanted - self._mark(tx, model, wanted, by=by, purge=purge):
                raise InputError(f"{model} has no version {min(missing)}")

    def note_moved(self, model: str, version: int, path: str) -> None:
        """Note where the files of a removed version are now; empty: they are deleted.

        From then on its former path may belong to another model.
        """
        v = schema.versions
        these = sa.and_(v.c.model == model, v.c.version == version, v.c.removed_at.is_not(None))
        with self._engine.begin() as tx:
            tx.execute(sa.update(v).where(these).values(path=path))

    def choose(self, model: str, version: int) -> Model:
        """Make a kept version the current one; the stages replace one that is loaded.

        Raises:
            InputError: it is not kept, or is the current one.
            Unavailable: the model is being removed.
        """
        kept = sorted(found.version for found in self.versions(model))
        now = self._now()
        with queries.change(self._engine) as tx:
            state = queries.state(tx, model)
            found = queries.models(tx, model)[0]
            if found.removal is not None:
                raise Unavailable(f"{model} is being removed")
            if found.version == version:
                raise InputError(f"version {version} of {model} is the current one already")
            v = schema.versions
            these = sa.and_(v.c.model == model, v.c.version == version, _kept())
            if tx.scalar(sa.select(v.c.version).where(these)) is None:
                raise InputError(
                    f"version {version} of {model} is not kept; kept: {', '.join(map(str, kept))}"
                )
            fresh: dict[str, Any] = {"version": version, **queries.FORGIVEN}
            again = ModelState.INGESTED.value
            settled = {"state": again, "state_since": now, "queued_at": None}
            if state in SETTLED:
                fresh |= settled
            tx.execute(queries.update_model(model).values(**fresh))
            return queries.models(tx, model)[0]

    def seal(self, model: str, version: int) -> str | None:
        """Return the seal of a version's files; ``None``: they were never read."""
        v = schema.versions.c
        query = sa.select(v.seal).where(v.model == model, v.version == version)
        with reading(self._engine) as tx:
            return tx.scalar(query)

    def set_seal(self, model: str, version: int, seal: str) -> None:
        """Note the seal of a version whose files have been read, and have its digest."""
        v = schema.versions
        with self._engine.begin() as tx:
            tx.execute(
                sa.update(v).where(v.c.model == model, v.c.version == version).values(seal=seal)
            )

    def prove(self, model: str, version: int) -> None:
        """Note that a version has answered its first requests."""
        v = schema.versions
        with queries.change(self._engine) as tx:
            tx.execute(
                sa.update(v)
                .where(v.c.model == model, v.c.version == version, v.c.proven_at.is_(None))
                .values(proven_at=self._now())
            )

    def _mark(
        self, tx: Connection, model: str, versions: set[int] | None, *, by: str, purge: bool
    ) -> set[int]:
        """Mark ``versions`` (``None``: all) as removed; return those that were not before."""
        v = schema.versions
        these = sa.and_(v.c.model == model, _kept())
        if versions is not None:
            these = sa.and_(these, v.c.version.in_(versions))
        found = set(tx.scalars(sa.select(v.c.version).where(these)))
        m = schema.models.c
        team = tx.scalar(sa.select(m.team).where(m.name == model))
        removed = {"removed_at": self._now(), "removed_by": by, "purge": purge, "team": team}
        tx.execute(sa.update(v).where(these).values(**removed))
        return found


def _kept() -> sa.ColumnElement[bool]:
    return schema.versions.c.removed_at.is_(None)
