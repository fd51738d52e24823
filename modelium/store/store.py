"""The durable truth: registered models, what plans do to them, and the parts of the store.

Every method is one short transaction and blocks: on an event loop use `AsyncStore`. Safe to use
from several threads and several processes on one database. SQLite (WAL) by default, or
PostgreSQL.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium.errors import IllegalTransition, InputError, StalePlan, StoreUnavailable, Unavailable
from modelium.lifecycle import SETTLED, ModelState
from modelium.models import Decision, Event, Model, ModelProfile, Plan, Priority, Wishes
from modelium.store import queries, schema
from modelium.store.api_keys import KeyTable
from modelium.store.basis import Basis
from modelium.store.connection import connect, migrate, reading
from modelium.store.decisions import DecisionLog, save_decision
from modelium.store.departures import Departures, forget, note_loads, save_departures
from modelium.store.events import EventLog
from modelium.store.exclusive import exclusive
from modelium.store.faults import THEN, Fault, shown
from modelium.store.history import History
from modelium.store.intents import IntentLog
from modelium.store.key_pools import KeyPools
from modelium.store.lease import database_time
from modelium.store.lineage import Lineage
from modelium.store.nodes import NodeTable
from modelium.store.operator_rules import OperatorRules
from modelium.store.outcomes import OutcomeLog
from modelium.store.parts import PartTable
from modelium.store.planner_lease import PlannerLease
from modelium.store.pruning import prune
from modelium.store.questions import QuestionLog
from modelium.store.reservations import Reservations
from modelium.store.stamps import clamp
from modelium.store.states import States
from modelium.store.team_usage import TeamUsage
from modelium.store.twins import Twins
from modelium.store.upsert import put
from modelium.store.views import View, Views
from modelium.store.wakeup import wakeups

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
        self.planner = PlannerLease(engine=engine)
        self.nodes = NodeTable(engine=engine, planner=self.planner)
        self.questions = QuestionLog(engine=engine)
        self.parts = PartTable(engine=engine)
        self.keys = KeyTable(engine=engine, now=now)
        self.key_pools = KeyPools(engine=engine)
        self.history = History(engine=engine, now=now)
        self.lineage = Lineage(engine=engine, now=now)
        self.states = States(engine=engine, now=now)
        self.reservations = Reservations(engine=engine)
        self.twins = Twins(engine=engine, now=now)
        self.departures = Departures(engine=engine)
        self.rules = OperatorRules(engine=engine, now=now)
        self.team_usage = TeamUsage(engine=engine, now=now)
        self.outcomes = OutcomeLog(engine=engine, now=now)
        self._views = Views(engine=engine)

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
            raise InputError(f"store.url: {shown(engine.url)} cannot be opened: {why}") from exc
        return cls(engine=engine, now=now, on_event=on_event)

    def time(self) -> float:
        """Return the time of the database, in seconds since the epoch."""
        with reading(self._engine) as tx:
            return database_time(tx)

    @property
    def shared(self) -> bool:
        """Whether several nodes may use the store."""
        return self._engine.dialect.name == "postgresql"

    def exclusive(
        self, node: str = "", *, heir_of: str | None = None
    ) -> AbstractContextManager[None]:
        """Be the store's one service, or that of ``node``, while inside.

        ``heir_of``: see `modelium.store.lease`.

        Raises:
            InputError: another one is.
        """
        return exclusive(self._engine, node, heir_of=heir_of)

    def wakeups(self, on_change: Callable[[], None]) -> AbstractContextManager[None]:
        """Call ``on_change`` after changes, questions and answers of all nodes while inside.

        It is called on a thread of its own, and must return at once. With SQLite it never is.
        """
        return wakeups(self._engine, on_change)

    def act_as(self, node: str) -> None:
        """Be ``node``: its traffic is counted, and on a shared store no model of others touched."""
        self.history.act_as(node)
        self.states.node = node if self.shared else ""

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
        return self._views.read()

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
        asked: Mapping[str, str | None] | None = None,
        profile: ModelProfile | None = None,
        version: int | None = None,
        seal: str | None = None,
        wishes: Wishes | None = None,
    ) -> Model:
        """Insert a model, or a new version of one whose content changed.

        A version that is loaded stays so until the stages replace it (`Model.outdated`).
        Registering the current content again changes nothing. ``version``: the number that its
        folder's name says, used where it is free; one below the current version does not become
        the current one. ``seal``: of the files while their digest was read. ``wishes``: what
        its note says. ``asked``: what came with it, kept with what the configuration makes of
        it. A reservation of ``path`` is fulfilled.

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
                    wishes=sa.null() if wishes is None else wishes.model_dump(mode="json"),
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
            row = {"model": name, "asked": dict(asked or {}), "declared": dict(operator)}
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
            if asked is not None:
                put(tx, schema.standings, [row])
            return queries.models(tx, name)[0]

    # --- plans ----------------------------------------------------------------------------

    def accept(
        self,
        plan: Plan,
        *,
        snapshot_digest: str,
        trace: Mapping[str, Any],
        basis: Basis | None = None,
    ) -> Decision:
        """Book everything that ``plan`` needs and mark its models, or change nothing.

        Loads become LOADING with their bookings, unloads DRAINING with their bookings marked
        as releasing, queued models QUEUED, rejected ones FAILED. Departures count against the
        budgets of `brain.may` from then on.

        ``basis``: what the plan relies on; ``None``: on everything.

        Raises:
            StalePlan: the store, or the basis, changed since `Plan.revision`.
            NotPlanner: another node plans by now.
        """
        now = self._now()
        decision = Decision(
            id=new_id(), at=now, plan=plan, snapshot_digest=snapshot_digest, trace=dict(trace)
        )
        with self._change() as tx:
            epoch = self.planner.check(tx)
            decision = decision.model_copy(update={"epoch": epoch, "node": self.history.node})
            changed = queries.revision(tx) != plan.revision + 1
            if changed and (basis is None or not basis.holds(tx, plan)):
                raise StalePlan("the fleet changed while the plan was made; planning again")
            for action in plan.actions:
                try:
                    queries.book(tx, action, now)
                except IllegalTransition as exc:
                    raise StalePlan(str(exc)) from exc
            for model, preference in plan.preferences.items():
                queries.prefer(tx, model, preference)
            save_decision(tx, decision)
            note_loads(tx, decision)
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
        self.questions.prune()
        with self._engine.begin() as tx:
            prune(tx, self._now())
            forget(tx, self._now())
