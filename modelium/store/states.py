"""The states of models. Every method is one short transaction and blocks.

Bookings and deployments go in the same transaction as the state that they belong to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium.errors import StalePlan
from modelium.lifecycle import IN_TRANSITION, SETTLED, ModelState
from modelium.models import Deployment, Model, Preference, Setbacks
from modelium.models.base import base_name
from modelium.store import queries, schema
from modelium.store.connection import reading


class States:
    """Moves models along the lifecycle; see `modelium.lifecycle`."""

    def __init__(self, *, engine: Engine, now: Callable[[], float]) -> None:
        """Read and write with ``engine``; ``now``: seconds since the epoch."""
        self._engine = engine
        self._now = now
        self.node = ""
        """The node that this process is; empty: there is one. See `_own`."""

    def due_on(self, node: str) -> tuple[str, ...]:
        """Return the models in transition that have memory of ``node`` booked."""
        m, b = schema.models, schema.bookings
        moving = [state.value for state in IN_TRANSITION]
        here = b.c.device.startswith(f"{node}/", autoescape=True)
        booked = sa.exists().where(b.c.model == m.c.name, here)
        with reading(self._engine) as tx:
            query = sa.select(m.c.name).where(m.c.state.in_(moving), booked).order_by(m.c.name)
            return tuple(tx.scalars(query))

    def mark_analyzed(self, name: str) -> Model:
        """Note that the profile of a model that holds no memory is known.

        A model that is loaded, or on its way, stays as it is.
        """
        with queries.change(self._engine) as tx:
            state = queries.state(tx, name)
            if state in SETTLED and state is not ModelState.ANALYZED:
                if state is not ModelState.INGESTED:
                    self._move(tx, name, ModelState.INGESTED)
                self._move(tx, name, ModelState.ANALYZED)
            return queries.models(tx, name)[0]

    def mark_unservable(self, name: str, *, reason: str) -> Model:
        """→ FAILED: its files cannot be served, whatever is tried."""
        with queries.change(self._engine) as tx:
            return self._move(tx, name, ModelState.FAILED, reason=reason, **queries.FORGIVEN)

    def leave_queue(self, name: str, *, reason: str) -> Model:
        """QUEUED or FAILED → UNLOADED; it is not tried again by itself."""
        with queries.change(self._engine) as tx:
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
        with queries.change(self._engine) as tx:
            self._own(tx, name, deployment)
            if preference is not None:
                queries.prefer(tx, name, preference)
            queries.save_deployment(tx, deployment)
            queries.prove_only(tx, base_name(name), deployment.version, self._now())
            return self._move(tx, name, ModelState.READY, reason=reason, retry_at=None)

    def mark_healthy(self, name: str) -> None:
        """Forget the failures of a model that has been ready for long enough since."""
        with queries.change(self._engine) as tx:
            tx.execute(queries.update_model(name).values(**queries.FORGIVEN))

    def forgive(self, name: str) -> Model:
        """Forget the failures of ``name``, which ends its quarantine; a failed one is due now.

        Raises:
            UnknownModel: no model has that name.
        """
        with queries.change(self._engine) as tx:
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
        with queries.change(self._engine) as tx:
            self._own(tx, deployment.model, deployment)
            queries.save_deployment(tx, deployment)

    def start_unloading(self, name: str, *, reason: str) -> Model:
        """→ UNLOADING: no request is in flight any more; its memory is still booked."""
        with queries.change(self._engine) as tx:
            self._own(tx, name)
            return self._move(tx, name, ModelState.UNLOADING, reason=reason)

    def order_unloading(self, name: str, *, reason: str) -> Model:
        """LOADING or FAILED → UNLOADING, on whichever node it is: that one ends what runs of it.

        What has become another state meanwhile stays as it is.
        """
        with queries.change(self._engine) as tx:
            if queries.state(tx, name) in (ModelState.LOADING, ModelState.FAILED):
                return self._move(tx, name, ModelState.UNLOADING, reason=reason)
            return queries.models(tx, name)[0]

    def cancel_eviction(self, name: str, *, reason: str) -> Model:
        """DRAINING → READY: the model stays, and its memory is no longer promised to others."""
        with queries.change(self._engine) as tx:
            self._own(tx, name)
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
        with queries.change(self._engine) as tx:
            return self._release(tx, name, ModelState.UNLOADED, reason=reason, **evicted_at)

    def requeue(self, name: str, *, reason: str, evicted: bool = False) -> Model:
        """→ QUEUED: its memory is free again, and it is to be loaded when there is room."""
        now = self._now()
        evicted_at = {"evicted_at": now} if evicted else {}
        with queries.change(self._engine) as tx:
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
        with queries.change(self._engine) as tx:
            self._own(tx, name)
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
        with queries.change(self._engine) as tx:
            return self._release(tx, name, ModelState.UNLOADED, reason=reason, retry_at=None)

    def _release(
        self, tx: Connection, name: str, target: ModelState, *, reason: str, **columns: Any
    ) -> Model:
        """Move to a state without device memory; bookings and deployment go in the same step."""
        self._own(tx, name)
        for table in (schema.bookings, schema.deployments):
            tx.execute(sa.delete(table).where(table.c.model == name))
        return self._move(tx, name, target, reason=reason, **columns)

    def _own(self, tx: Connection, name: str, deployment: Deployment | None = None) -> None:
        """Refuse to touch a model that was taken from this node while it was silent.

        ``deployment``: what it is about; by now the model may be on this node once more.

        What it still does for the model may end after the model was queued again, or loaded
        elsewhere; the rows are then about that.

        Raises:
            StalePlan: the model is no longer on this node.
        """
        if not self.node:
            return
        found = queries.deployment(tx, name)
        idle = found is None and queries.state(tx, name) in SETTLED
        other = found is not None and (
            found.node != self.node
            or (deployment is not None and found.started_at != deployment.started_at)
        )
        if idle or other:
            raise StalePlan(f"{name} was taken from {self.node}, which was silent")

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
