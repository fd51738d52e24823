"""The durable truth: models, deployments, bookings, decisions, events, intents.

Every method is one short transaction and blocks: call it off the event loop. Safe to use from
several threads and several processes on one database. SQLite (WAL) by default, any SQLAlchemy
URL where several machines share it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium import lifecycle
from modelium.errors import IllegalTransition, InputError, StalePlan, UnknownModel
from modelium.lifecycle import ModelState
from modelium.models import (
    Booking,
    Decision,
    Deployment,
    Event,
    Intent,
    Model,
    ModelProfile,
    Plan,
    Priority,
)
from modelium.store import queries, schema
from modelium.store.api_keys import KeyTable
from modelium.store.connection import connect, migrate
from modelium.store.history import History
from modelium.store.row_cache import Documents

View = tuple[int, tuple[Model, ...], tuple[Booking, ...]]

KEEP_EVENTS = 100_000
KEEP_DECISIONS = 20_000
"""Bounds of the two logs: about 100 MB together at the usual sizes."""


def new_id() -> str:
    """A short unique id for decisions and intents."""
    return uuid.uuid4().hex[:12]


class Store:
    """Reads and writes the tables. Build with `open`."""

    def __init__(self, *, engine: Engine, now: Callable[[], float]) -> None:
        """``now``: seconds since the epoch."""
        self._engine = engine
        self._now = now
        self.keys = KeyTable(engine=engine, now=now)
        self.history = History(engine=engine, now=now)
        self.on_event: Callable[[Event], None] = lambda event: None
        """Called after an event was kept, on the thread that kept it; must return at once."""
        self._documents = Documents()
        self._viewed: tuple[queries.Marks, View] | None = None

    @classmethod
    def open(cls, url: str, *, now: Callable[[], float]) -> Store:
        """Connect to ``url`` and bring its schema up to date.

        Raises:
            InputError: the database cannot be reached or is newer than this Modelium.
        """
        engine = connect(url)
        try:
            migrate(engine)
        except Exception as exc:
            engine.dispose()
            raise InputError(f"store {sa.make_url(url)!r} cannot be opened: {exc}") from exc
        return cls(engine=engine, now=now)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _change(self) -> Iterator[Connection]:
        """A transaction that may alter what plans depend on: bumps the revision."""
        with self._engine.begin() as tx:
            tx.execute(
                sa.update(schema.meta)
                .where(schema.meta.c.key == "revision")
                .values(value=schema.meta.c.value + 1)
            )
            yield tx

    # --- models ---------------------------------------------------------------------------

    def revision(self) -> int:
        """The count of changes so far."""
        with self._engine.connect() as tx:
            return queries.revision(tx)

    def view(self) -> View:
        """Revision, all models and all bookings, read together."""
        with self._engine.begin() as tx:
            marks = queries.marks(tx)
            viewed = self._viewed
            # Building a thousand models takes 0.1 s, and mostly nothing has changed.
            if viewed is None or viewed[0] != marks:
                models = queries.models(tx, documents=self._documents)
                self._documents.forget({model.name for model in models})
                view = marks.revision, models, queries.bookings(tx)
                self._viewed = viewed = marks, view
        return viewed[1]

    def names(self) -> frozenset[str]:
        """The names of all registered models."""
        with self._engine.connect() as tx:
            return frozenset(tx.scalars(sa.select(schema.models.c.name)))

    def versions(self) -> dict[str, int]:
        """Name → the newest version, of all registered models."""
        with self._engine.connect() as tx:
            found = tx.execute(sa.select(schema.models.c.name, schema.models.c.version))
            return {row.name: row.version for row in found}

    def model(self, name: str) -> Model:
        """One model.

        Raises:
            UnknownModel: there is none of that name.
        """
        with self._engine.begin() as tx:
            found = queries.models(tx, name)
        if not found:
            raise UnknownModel(f"no model is called {name!r}; `modelium ls` shows those there are")
        return found[0]

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
    ) -> Model:
        """Add a model, or a new version of one whose content changed.

        A version that is loaded stays so until the stages replace it (`Model.outdated`).
        Registering the current content again changes nothing.
        """
        now = self._now()
        with self._change() as tx:
            found = queries.models(tx, name)
            if found and found[0].digest == digest:
                return found[0]
            version = 1 + (tx.scalar(queries.last_version(name)) or 0)
            tx.execute(
                sa.insert(schema.versions).values(
                    model=name, version=version, path=str(path), digest=digest, registered_at=now
                )
            )
            operator = {
                "team": team,
                "priority": priority.value,
                "priority_ceiling": priority_ceiling.value,
                "pinned": pinned,
            }
            if found:
                known = found[0]
                fresh: dict[str, Any] = {"version": version, "failures": 0, "retry_at": None}
                if known.state in lifecycle.SETTLED:
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
        """The number that the next registered version of ``name`` gets."""
        with self._engine.connect() as tx:
            return 1 + (tx.scalar(queries.last_version(name)) or 0)

    def set_profile(self, name: str, version: int, profile: ModelProfile) -> None:
        """Keep what analysis found out."""
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
                raise UnknownModel(f"no model is called {name!r}")
            return queries.models(tx, name)[0]

    def approve(self, name: str, *, digest: str, what: Iterable[str]) -> None:
        """Allow ``what`` for exactly this content."""
        now = self._now()
        with self._change() as tx:
            known = set(tx.scalars(queries.approved(digest)))
            for item in set(what) - known:
                tx.execute(
                    sa.insert(schema.approvals).values(digest=digest, what=item, model=name, at=now)
                )

    def approvals(self, digest: str) -> frozenset[str]:
        """What is allowed for this content."""
        with self._engine.connect() as tx:
            return frozenset(tx.scalars(queries.approved(digest)))

    def transition(
        self,
        name: str,
        target: ModelState,
        *,
        expect: Iterable[ModelState] | None = None,
        reason: str = "",
        **columns: Any,
    ) -> Model:
        """Move a model along the lifecycle table: the one way that states change.

        Args:
            name: the model.
            target: where to.
            expect: states it must be in now; default: any from which the table allows the move.
            reason: why, in one line.
            columns: further columns of the row that change with it.

        Raises:
            IllegalTransition: it is in another state, or the table has no such edge.
        """
        with self._change() as tx:
            queries.transition(
                tx, name, target, self._now(), expect=expect, reason=reason, **columns
            )
            return queries.models(tx, name)[0]

    def loaded(self, name: str, deployment: Deployment) -> Model:
        """LOADING → READY, with where it answers."""
        with self._change() as tx:
            queries.save_deployment(tx, deployment)
            reason = f"loaded on {deployment.runtime.value} in {deployment.load_s or 0:.1f} s"
            queries.transition(
                tx, name, ModelState.READY, self._now(), reason=reason, failures=0, retry_at=None
            )
            return queries.models(tx, name)[0]

    def save_deployment(self, deployment: Deployment) -> None:
        """Keep a changed handle or upstream of a model that stays in its state."""
        with self._change() as tx:
            queries.save_deployment(tx, deployment)

    def released(self, name: str, target: ModelState, *, reason: str, **columns: Any) -> Model:
        """Move to a state without device memory; bookings and deployment go in the same step."""
        with self._change() as tx:
            queries.transition(tx, name, target, self._now(), reason=reason, **columns)
            for table in (schema.bookings, schema.deployments):
                tx.execute(sa.delete(table).where(table.c.model == name))
            return queries.models(tx, name)[0]

    def keep_promise_off(self, name: str, *, reason: str) -> Model:
        """DRAINING → READY: the eviction did not happen, its bytes are no longer promised."""
        with self._change() as tx:
            queries.transition(tx, name, ModelState.READY, self._now(), reason=reason)
            tx.execute(
                sa.update(schema.bookings)
                .where(schema.bookings.c.model == name)
                .values(releasing=False)
            )
            return queries.models(tx, name)[0]

    def forget_preference(self, name: str) -> None:
        """Have ``name`` loaded as the rules choose from now on."""
        with self._change() as tx:
            queries.prefer(tx, name, None)

    # --- plans ----------------------------------------------------------------------------

    def accept(self, plan: Plan, *, snapshot_digest: str, trace: Mapping[str, Any]) -> Decision:
        """Book everything that ``plan`` needs and mark its models, or change nothing.

        Loads become LOADING with their bookings, unloads DRAINING with their bookings marked
        as releasing, queued models QUEUED, rejected ones FAILED.

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
            queries.save_decision(tx, decision)
        return decision

    def record_decision(self, decision: Decision) -> None:
        """Keep a decision that changed nothing, or how an earlier one ended."""
        with self._engine.begin() as tx:
            queries.save_decision(tx, decision)

    def finish_decision(self, decision_id: str, *, outcome: str, detail: str = "") -> None:
        """Say how a decision ended; the first failure stands."""
        with self._engine.begin() as tx:
            row = tx.scalar(
                sa.select(schema.decisions.c.document).where(schema.decisions.c.id == decision_id)
            )
            if row is None or row["outcome"] == "failed":
                return
            ended = {**row, "outcome": outcome, "detail": detail, "finished_at": self._now()}
            queries.save_decision(tx, Decision.model_validate(ended))

    def decision(self, decision_id: str) -> Decision:
        """One decision.

        Raises:
            InputError: there is none of that id.
        """
        with self._engine.connect() as tx:
            row = tx.scalar(
                sa.select(schema.decisions.c.document).where(schema.decisions.c.id == decision_id)
            )
        if row is None:
            raise InputError(f"no decision has the id {decision_id!r}")
        return Decision.model_validate(row)

    def decisions(
        self, *, model: str | None = None, advised: bool = False, limit: int = 20
    ) -> list[Decision]:
        """The newest decisions first, all or those that name ``model``.

        ``advised``: only those that an LLM was asked for.
        """
        document = schema.decisions.c.document
        query = sa.select(document).order_by(schema.decisions.c.at.desc())
        if advised:
            query = query.where(document["trace"]["endpoint"].as_string().is_not(None))
        if model is not None:
            query = query.join(
                schema.decision_models, schema.decision_models.c.decision == schema.decisions.c.id
            ).where(schema.decision_models.c.model == model)
        with self._engine.connect() as tx:
            return [Decision.model_validate(row) for row in tx.scalars(query.limit(limit))]

    # --- what happened --------------------------------------------------------------------

    def event(self, kind: str, *, model: str | None = None, **detail: Any) -> Event:
        """Append to the event log."""
        now = self._now()
        with self._engine.begin() as tx:
            key = tx.execute(
                sa.insert(schema.events).values(at=now, kind=kind, model=model, detail=detail)
            ).inserted_primary_key
        event = Event(id=key[0] if key else 0, at=now, kind=kind, model=model, detail=detail)
        self.on_event(event)
        return event

    def events(self, *, model: str | None = None, limit: int = 50, after: int = 0) -> list[Event]:
        """The newest events first, those with an id above ``after``."""
        query = sa.select(schema.events).where(schema.events.c.id > after)
        if model is not None:
            query = query.where(schema.events.c.model == model)
        with self._engine.connect() as tx:
            found = tx.execute(query.order_by(schema.events.c.id.desc()).limit(limit)).mappings()
            return [Event.model_validate(dict(row)) for row in found]

    def save_intent(self, intent: Intent) -> Intent:
        """Keep an intent, or what became of it."""
        document = intent.model_dump(mode="json")
        table = schema.intents
        with self._engine.begin() as tx:
            update = sa.update(table).where(table.c.id == intent.id).values(document=document)
            if not tx.execute(update).rowcount:
                tx.execute(sa.insert(table).values(id=intent.id, at=intent.at, document=document))
        return intent

    def intent(self, intent_id: str) -> Intent:
        """One intent; raises `InputError` where there is none."""
        query = sa.select(schema.intents.c.document).where(schema.intents.c.id == intent_id)
        with self._engine.connect() as tx:
            row = tx.scalar(query)
        if row is None:
            raise InputError(f"no intent has the id {intent_id!r}")
        return Intent.model_validate(row)

    def intents(self, *, limit: int = 50) -> list[Intent]:
        """The newest intents first."""
        query = sa.select(schema.intents.c.document).order_by(schema.intents.c.at.desc())
        with self._engine.connect() as tx:
            return [Intent.model_validate(row) for row in tx.scalars(query.limit(limit))]

    def prune(self) -> None:
        """Bound the logs."""
        with self._engine.begin() as tx:
            newest = tx.scalar(sa.select(sa.func.max(schema.events.c.id))) or 0
            tx.execute(sa.delete(schema.events).where(schema.events.c.id <= newest - KEEP_EVENTS))
            oldest = tx.scalar(
                sa.select(schema.decisions.c.at)
                .order_by(schema.decisions.c.at.desc())
                .offset(KEEP_DECISIONS)
                .limit(1)
            )
            if oldest is not None:
                gone = sa.select(schema.decisions.c.id).where(schema.decisions.c.at <= oldest)
                link = schema.decision_models
                tx.execute(sa.delete(link).where(link.c.decision.in_(gone)))
                tx.execute(sa.delete(schema.decisions).where(schema.decisions.c.at <= oldest))
