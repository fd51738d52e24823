"""The durable truth: models, deployments and bookings, and what plans do to them.

Every method is one short transaction and blocks: on an event loop use `AsyncStore`. Safe to use
from several threads and several processes on one database. SQLite (WAL) by default, any
SQLAlchemy URL where several machines share it.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium.errors import IllegalTransition, InputError, StalePlan, StoreUnavailable, Unavailable
from modelium.lifecycle import SETTLED, ModelState
from modelium.models import (
    Booking,
    Decision,
    Deployment,
    Event,
    Model,
    ModelProfile,
    Plan,
    Preference,
    Priority,
    Setbacks,
)
from modelium.models.base import base_name
from modelium.store import queries, schema
from modelium.store.api_keys import KeyTable
from modelium.store.connection import connect, migrate, reading
from modelium.store.decisions import DecisionLog, save_decision
from modelium.store.departures import Departures, forget, note_asked, save_departures
from modelium.store.events import EventLog
from modelium.store.exclusive import exclusive
from modelium.store.faults import THEN, Fault
from modelium.store.history import History
from modelium.store.intents import IntentLog
from modelium.store.lineage import Lineage
from modelium.store.operator_rules import OperatorRules
from modelium.store.pruning import prune
from modelium.store.reservations import Reservations
from modelium.store.row_cache import RowCache
from modelium.store.stamps import clamp
from modelium.store.twins import Twins
from modelium.store.upsert import put_missing

View = tuple[int, tuple[Model, ...], tuple[Booking, ...]]
"""Revision, all models, all bookings."""

PASSING = frozenset({Fault.LOCKED, Fault.FULL, Fault.FAILING})
"""Faults that a wrong ``store.url`` does not have."""


def new_id() -> str:
    """Return a short unique id for decisions, intents and keys."""
    return uuid.uuid4().hex[:12]


def ignore(_event: Event) -> None:
    """Listen to no event."""


class Store:
    """Reads and writes the tables. Build with `open`."""

    def __init__(
        self, *, engine: Engine, now: Callable[[], float], on_event: Callable[[Event], None]
    ) -> None:
        """See `open`."""
        self._engine = engine
        self._now = now
        self.decisions = DecisionLog(engine=engine, now=now)
        self.events = EventLog(engine=engine, now=now, on_event=on_event)
        self.intents = IntentLog(engine=engine, now=now)
        self.keys = KeyTable(engine=engine, now=now)
        self.history = History(engine=engine, now=now)
        self.lineage = Lineage(engine=engine, now=now)
        self.reservations = Reservations(engine=engine)
        self.twins = Twins(engine=engine, now=now)
        self.departures = Departures(engine=engine)
        self.rules = OperatorRules(engine=engine)
        self._cache = RowCache()
        self._viewing = threading.Lock()
        self._viewed: tuple[queries.Marks, View] | None = None

    @classmethod
    def open(
        cls,
        url: str,
        *,
        now: Callable[[], float],
        on_event: Callable[[Event], None] = ignore,
    ) -> Store:
        """Connect to ``url`` and bring its schema up to date.

        Args:
            url: of SQLAlchemy.
            now: seconds since the epoch.
            on_event: called after each event was stored, on the thread that stored it; must
                return at once.

        Raises:
            InputError: the database cannot be reached, is none, or is newer than this Modelium.
            StoreUnavailable: it is locked, or its disk is full or failing.
        """
        engine = connect(url)
        try:
            migrate(engine)
        except Exception as exc:
            engine.dispose()
            if isinstance(exc, StoreUnavailable) and exc.reason in PASSING:
                sentence = f"{str(exc).removesuffix(THEN)}; then try again"
                raise StoreUnavailable(sentence, reason=exc.reason) from exc
            original = exc.__cause__ if isinstance(exc, StoreUnavailable) else exc
            why = " ".join(str(original).split())
            raise InputError(f"store.url: {engine.url!r} cannot be opened: {why}") from exc
        return cls(engine=engine, now=now, on_event=on_event)

    def exclusive(self) -> AbstractContextManager[None]:
        """Be the store's one service while inside; raises `InputError` where another one is."""
        return exclusive(self._engine)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _change(self) -> AbstractContextManager[Connection]:
        return queries.change(self._engine)

    # --- reading --------------------------------------------------------------------------

    def revision(self) -> int:
        """Return the number of changes so far."""
        with reading(self._engine) as tx:
            return queries.revision(tx)

    def view(self) -> View:
        """Return revision, all models and all bookings, read in one transaction."""
        with self._viewing, reading(self._engine) as tx:
            marks = queries.marks(tx)
            viewed = self._viewed
            # Building a thousand models takes 0.1 s, and mostly nothing has changed.
            if viewed is None or viewed[0] != marks:
                models = queries.models(tx, cache=self._cache)
                self._cache.retain({model.name for model in models})
                view = marks.revision, models, queries.bookings(tx)
                self._viewed = viewed = marks, view
        return viewed[1]

    def names(self) -> frozenset[str]:
        """Return the names of all registered models."""
        return frozenset(self.versions())

    def versions(self) -> dict[str, int]:
        """Return name → newest version of all registered models that are not being removed."""
        query = sa.select(schema.models.c.name, schema.models.c.version)
        with reading(self._engine) as tx:
            served = schema.models.c.removal.is_(sa.null()), schema.models.c.twin_of.is_(None)
            found = tx.execute(query.where(*served))
            return {row.name: row.version for row in found}

    def model(self, name: str) -> Model:
        """Return one model.

        Raises:
            UnknownModel: no model has that name.
        """
        found = self.find(name)
        if found is None:
            raise queries.unknown(name)
        return found

    def find(self, name: str) -> Model | None:
        """Return one model, ``None`` where no model has that name."""
        with reading(self._engine) as tx:
            return next(iter(queries.models(tx, name)), None)

    # --- registering ----------------------------------------------------------------------

    def register(
        self,
        name: str,
        *,
        path: Path,
        digest: str,
        team: str | None,
        priority: Priority,
        priority_ceiling: Priority,
        pinned: bool,
        profile: ModelProfile | None = None,
        version: int | None = None,
        seal: str | None = None,
    ) -> Model:
        """Insert a model, or a new version of one whose content changed.

        A version that is loaded stays so until the stages replace it (`Model.outdated`).
        Registering the current content again changes nothing. ``version``: the number that its
        folder's name says, used where it is free; one below the current version does not become
        the current one. ``seal``: of the files while their digest was read. A reservation of
        ``path`` is fulfilled.

        Raises:
            Unavailable: the model is being removed.
        """
        now = self._now()
        with self._change() as tx:
            found = queries.models(tx, name)
            if found and found[0].removal is not None:
                raise Unavailable(f"{name} is being removed; it can be dropped again afterwards")
            if version is None and found and found[0].digest == digest:
                return found[0]
            tx.execute(queries.unreserve(str(path)))
            if version is None or tx.scalar(queries.path_of(name, version)) is not None:
                version = queries.next_version(tx, name)
            tx.execute(
                sa.insert(schema.versions).values(
                    model=name,
                    version=version,
                    path=str(path),
                    digest=digest,
                    registered_at=now,
                    seal=seal,
                    profile=sa.null() if profile is None else profile.model_dump(mode="json"),
                )
            )
            if found and version < found[0].version:
                return found[0]
            operator = {
                "team": team,
                "priority": priority.value,
                "priority_ceiling": priority_ceiling.value,
                "pinned": pinned,
            }
            if found:
                known = found[0]
                # A pin is the operator's, whatever the drop came with.
                operator["pinned"] = pinned or known.pinned
                fresh: dict[str, Any] = {"version": version, **queries.FORGIVEN}
                if known.state in SETTLED:
                    fresh |= {"state": ModelState.INGESTED.value, "state_since": now}
                tx.execute(queries.update_model(name).values(**operator, **fresh))
            else:
                tx.execute(
                    sa.insert(schema.models).values(
                        name=name,
                        version=version,
                        state=ModelState.INGESTED.value,
                        state_since=now,
                        registered_at=now,
                        failures=0,
                        reason="",
                        **operator,
                    )
                )
            return queries.models(tx, name)[0]

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
        with self._change() as tx:
            where = sa.and_(
                v.c.model == name,
                v.c.version == version,
                v.c.digest == digest,
                v.c.removed_at.is_(None),
            )
            return bool(tx.execute(sa.update(v).where(where).values(path=str(path))).rowcount)

    def set_profile(self, name: str, version: int, profile: ModelProfile) -> None:
        """Store what analysis found in the files of one version."""
        with self._change() as tx:
            tx.execute(
                sa.update(schema.versions)
                .where(schema.versions.c.model == name, schema.versions.c.version == version)
                .values(profile=profile.model_dump(mode="json"))
            )

    def set_pinned(self, name: str, pinned: bool) -> Model:
        """Pin or unpin; raises `UnknownModel`."""
        with self._change() as tx:
            if not tx.execute(queries.update_model(name).values(pinned=pinned)).rowcount:
                raise queries.unknown(name)
            return queries.models(tx, name)[0]

    def approve(self, name: str, *, digest: str, what: Iterable[str]) -> None:
        """Allow ``what`` for exactly this content."""
        now = self._now()
        rows = [{"digest": digest, "what": item, "model": name, "at": now} for item in set(what)]
        with self._change() as tx:
            put_missing(tx, schema.approvals, rows)

    def approvals(self, digest: str) -> frozenset[str]:
        """Return what is allowed for this content."""
        with reading(self._engine) as tx:
            return frozenset(tx.scalars(queries.approved(digest)))

    # --- states ---------------------------------------------------------------------------

    def mark_analyzed(self, name: str) -> Model:
        """Note that the profile of a model that holds no memory is known.

        A model that is loaded, or on its way, stays as it is.
        """
        with self._change() as tx:
            state = queries.state(tx, name)
            if state in SETTLED and state is not ModelState.ANALYZED:
                if state is not ModelState.INGESTED:
                    self._move(tx, name, ModelState.INGESTED)
                self._move(tx, name, ModelState.ANALYZED)
            return queries.models(tx, name)[0]

    def mark_unservable(self, name: str, *, reason: str) -> Model:
        """→ FAILED: its files cannot be served, whatever is tried."""
        with self._change() as tx:
            return self._move(tx, name, ModelState.FAILED, reason=reason, **queries.FORGIVEN)

    def leave_queue(self, name: str, *, reason: str) -> Model:
        """QUEUED or FAILED → UNLOADED; it is not tried again by itself."""
        with self._change() as tx:
            return self._move(tx, name, ModelState.UNLOADED, reason=reason, retry_at=None)

    def mark_ready(
        self,
        name: str,
        deployment: Deployment,
        *,
        note: str = "",
        preference: Preference | None = None,
    ) -> Model:
        """LOADING → READY, with the upstream in ``deployment``.

        Args:
            name: the model.
            deployment: as it runs.
            note: what people should know about it; ends the reason.
            preference: what the next load starts from; ``None`` changes nothing.
        """
        reason = f"loaded on {deployment.runtime.value} in {deployment.load_s or 0:.1f} s"
        reason = f"{reason} {note}".rstrip()
        with self._change() as tx:
            if preference is not None:
                queries.prefer(tx, name, preference)
            queries.save_deployment(tx, deployment)
            queries.prove_only(tx, base_name(name), deployment.version, self._now())
            return self._move(tx, name, ModelState.READY, reason=reason, retry_at=None)

    def mark_healthy(self, name: str) -> None:
        """Forget the failures of a model that has been ready for long enough since."""
        with self._change() as tx:
            tx.execute(queries.update_model(name).values(**queries.FORGIVEN))

    def forgive(self, name: str) -> Model:
        """Forget the failures of ``name``, which ends its quarantine; a failed one is due now.

        Raises:
            UnknownModel: no model has that name.
        """
        with self._change() as tx:
            fresh = dict(queries.FORGIVEN)
            (found,) = queries.models(tx, name) or (None,)
            if found is None:
                raise queries.unknown(name)
            if found.state is ModelState.FAILED and found.failures:
                fresh["retry_at"] = self._now()
            tx.execute(queries.update_model(name).values(**fresh))
            return queries.models(tx, name)[0]

    def mark_moved(self, deployment: Deployment) -> None:
        """Store a new handle or upstream of a model that stays in its state."""
        with self._change() as tx:
            queries.save_deployment(tx, deployment)

    def start_unloading(self, name: str, *, reason: str) -> Model:
        """→ UNLOADING: no request is in flight any more; its memory is still booked."""
        with self._change() as tx:
            return self._move(tx, name, ModelState.UNLOADING, reason=reason)

    def cancel_eviction(self, name: str, *, reason: str) -> Model:
        """DRAINING → READY: the model stays, and its memory is no longer promised to others."""
        with self._change() as tx:
            tx.execute(
                sa.update(schema.bookings)
                .where(schema.bookings.c.model == name)
                .values(releasing=False)
            )
            return self._move(tx, name, ModelState.READY, reason=reason)

    def release(self, name: str, *, reason: str, evicted: bool) -> Model:
        """UNLOADING → UNLOADED: its memory is free again.

        ``evicted``: a plan took it out, so that the reload cooldown begins.
        """
        evicted_at = {"evicted_at": self._now()} if evicted else {}
        with self._change() as tx:
            return self._release(tx, name, ModelState.UNLOADED, reason=reason, **evicted_at)

    def requeue(self, name: str, *, reason: str, evicted: bool = False) -> Model:
        """→ QUEUED: its memory is free again, and it is to be loaded when there is room."""
        now = self._now()
        evicted_at = {"evicted_at": now} if evicted else {}
        with self._change() as tx:
            return self._release(
                tx, name, ModelState.QUEUED, reason=reason, queued_at=now, **evicted_at
            )

    def fail(
        self,
        name: str,
        *,
        reason: str,
        failures: int,
        retry_at: float | None,
        setbacks: Setbacks,
    ) -> Model:
        """→ FAILED, after a failed load or a loss soon after one: its bookings are given back.

        Args:
            name: the model.
            reason: in words.
            failures: in a row, this one included.
            retry_at: before which it is not tried again; ``None``: it is quarantined.
            setbacks: what is known of them.
        """
        with self._change() as tx:
            queries.prefer(tx, name, None)  # whoever advised it, the next load is the rules' own
            return self._release(
                tx,
                name,
                ModelState.FAILED,
                reason=reason,
                failures=failures,
                retry_at=retry_at,
                setbacks=setbacks.model_dump(mode="json"),
            )

    def cancel_load(self, name: str, *, reason: str) -> Model:
        """LOADING → UNLOADED: its bookings are given back; it counts as no failure."""
        with self._change() as tx:
            return self._release(tx, name, ModelState.UNLOADED, reason=reason, retry_at=None)

    def _release(
        self, tx: Connection, name: str, target: ModelState, *, reason: str, **columns: Any
    ) -> Model:
        """Move to a state without device memory; bookings and deployment go in the same step."""
        for table in (schema.bookings, schema.deployments):
            tx.execute(sa.delete(table).where(table.c.model == name))
        return self._move(tx, name, target, reason=reason, **columns)

    def _move(
        self, tx: Connection, name: str, target: ModelState, *, reason: str = "", **columns: Any
    ) -> Model:
        """Move a model along the lifecycle table: the one way that states change.

        Raises:
            IllegalTransition: the table has no such edge.
            UnknownModel: no model has that name.
        """
        queries.transition(tx, name, target, self._now(), reason=reason, **columns)
        return queries.models(tx, name)[0]

    # --- plans ----------------------------------------------------------------------------

    def accept(self, plan: Plan, *, snapshot_digest: str, trace: Mapping[str, Any]) -> Decision:
        """Book everything that ``plan`` needs and mark its models, or change nothing.

        Loads become LOADING with their bookings, unloads DRAINING with their bookings marked
        as releasing, queued models QUEUED, rejected ones FAILED. Departures count against the
        budgets of `brain.may` from then on.

        Raises:
            StalePlan: the store changed since `Plan.revision`.
        """
        now = self._now()
        decision = Decision(
            id=new_id(), at=now, plan=plan, snapshot_digest=snapshot_digest, trace=dict(trace)
        )
        with self._change() as tx:
            if queries.revision(tx) != plan.revision + 1:
                raise StalePlan("the fleet changed while the plan was made; planning again")
            for action in plan.actions:
                try:
                    queries.book(tx, action, now)
                except IllegalTransition as exc:
                    raise StalePlan(str(exc)) from exc
            for model, preference in plan.preferences.items():
                queries.prefer(tx, model, preference)
            save_decision(tx, decision)
            note_asked(tx, decision)
            save_departures(tx, decision)
        return decision

    def clamp_times(self, *, longest_pause_s: float) -> None:
        """Correct times in the future: the clock was set back since they were stored."""
        with self._change() as tx:
            clamp(tx, self._now(), longest_pause_s=longest_pause_s)

    def prune(self) -> None:
        """Delete the oldest of what grows with time, so that it stays bounded."""
        self.decisions.prune()
        self.events.prune()
        self.intents.prune()
        with self._engine.begin() as tx:
            prune(tx, self._now())
            forget(tx, self._now())
