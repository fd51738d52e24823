"""The machines that share the store, and what each has. Methods are short transactions, and block.

Times are the database's own: no node's clock counts.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium.errors import InputError
from modelium.lifecycle import LEAVING, ModelState
from modelium.models import Deployment, Node, NodeReport, NodeState
from modelium.store import queries, schema
from modelium.store.connection import own_rows, reading
from modelium.store.documents import parsed
from modelium.store.lease import database_time
from modelium.store.planner_lease import NAME as PLANNER
from modelium.store.planner_lease import PlannerLease
from modelium.store.upsert import put, put_missing

TOKEN_S = 24 * 3600.0
"""For which a join token is valid."""

TOKEN_PREFIX = "mdj_"  # noqa: S105 - what tokens begin with


def digest(secret: str) -> str:
    """Return what the store keeps of a node's secret or a join token."""
    return hashlib.sha256(secret.encode()).hexdigest()


class NodeTable:
    """Nodes, join tokens, copies of files, and what silent nodes were relieved of."""

    def __init__(self, *, engine: Engine, planner: PlannerLease) -> None:
        """``planner``: who may give up what a silent node holds."""
        self._engine = engine
        self._planner = planner
        self._read: dict[str, tuple[float, NodeReport]] = {}
        self._reading = threading.Lock()

    def join(self, name: str, *, identity: str, token: str | None, report: NodeReport) -> bool:
        """Take a machine in, or let one that has joined come back; True: it is new.

        Args:
            name: its own, unique in the store.
            identity: `digest` of the secret that the machine keeps.
            token: of `issue_token`; the first machine of a store needs none.
            report: what it says of itself.

        Raises:
            InputError: another machine has the name, or the token is not valid.
        """
        table, tokens = schema.nodes, schema.join_tokens
        with self._engine.begin() as tx:
            now = database_time(tx)
            row = tx.execute(sa.select(table).where(table.c.name == name)).one_or_none()
            known = row is not None and row.identity == identity
            if not known and tx.scalar(sa.select(sa.func.count()).select_from(table)):
                if not token:
                    raise InputError(_no_token(name, taken=row is not None))
                valid = sa.and_(tokens.c.hash == digest(token), tokens.c.until > now)
                if not tx.execute(sa.delete(tokens).where(valid)).rowcount:
                    raise InputError(
                        "orchestration.join_token: unknown, used or expired; make one with "
                        "`modelium nodes token` on a machine that has joined"
                    )
            if row is not None and not known:
                # The same name with an empty disk: its engines and files may be gone.
                tx.execute(sa.delete(schema.copies).where(schema.copies.c.node == name))
            fresh = {
                "name": name,
                "identity": identity,
                "state": row.state if row is not None else "active",
                "joined_at": row.joined_at if row is not None and known else now,
                "seen_at": now,
                "document": report.model_dump(mode="json"),
            }
            put(tx, table, [fresh])
        return not known

    def beat(self, name: str, *, identity: str, report: NodeReport) -> bool:
        """Say that a node is there, and how it is; False: it was removed, or replaced."""
        table = schema.nodes
        with own_rows(self._engine) as tx:
            mine = sa.and_(table.c.name == name, table.c.identity == identity)
            fresh = {"seen_at": database_time(tx), "document": report.model_dump(mode="json")}
            return bool(tx.execute(sa.update(table).where(mine).values(**fresh)).rowcount)

    def all(self) -> tuple[Node, ...]:
        """Return all nodes, by name."""
        table, lost = schema.nodes, schema.strays
        counts = sa.select(lost.c.node, sa.func.count().label("strays")).group_by(lost.c.node)
        with self._reading, reading(self._engine) as tx:
            now = database_time(tx)
            planner = self._planner_of(tx, now)
            strays = {row.node: row.strays for row in tx.execute(counts)}
            marks = sa.select(table.c.name, table.c.state, table.c.seen_at).order_by(table.c.name)
            rows = tx.execute(marks).all()
            changed = [r.name for r in rows if self._read.get(r.name, (None,))[0] != r.seen_at]
            fresh = self._reports(tx, changed)
            self._read = {
                r.name: fresh.get(r.name) or self._read[r.name]
                for r in rows
                if r.name in fresh or r.name in self._read
            }
            return tuple(
                Node(
                    name=row.name,
                    state=row.state,
                    silent_s=max(0.0, now - row.seen_at),
                    plans=row.name == planner,
                    strays=strays.get(row.name, 0),
                    report=self._read[row.name][1],
                )
                for row in rows
                if row.name in self._read
            )

    @staticmethod
    def _planner_of(tx: Connection, now: float) -> str | None:
        """Return the node that holds the planner's lease."""
        table = schema.leases
        held = sa.and_(table.c.name == PLANNER, table.c.until > now)
        holder = tx.scalar(sa.select(table.c.holder).where(held))
        # A holder is called by its node, then by what tells it from another of that name.
        return holder.partition(" ")[0] if holder else None

    def _reports(self, tx: Connection, names: list[str]) -> dict[str, tuple[float, NodeReport]]:
        table = schema.nodes
        if not names:
            return {}
        query = sa.select(table.c.name, table.c.seen_at, table.c.document)
        found = tx.execute(query.where(table.c.name.in_(names)))
        return {r.name: (r.seen_at, parsed(NodeReport, r.document)) for r in found}

    def identities(self) -> Mapping[str, str]:
        """Return `digest` of a secret → the node that keeps it."""
        with reading(self._engine) as tx:
            found = tx.execute(sa.select(schema.nodes.c.identity, schema.nodes.c.name))
            return {row.identity: row.name for row in found}

    def set_state(self, name: str, state: NodeState) -> None:
        """Cordon or drain a node, or use it again.

        Raises:
            InputError: no node has that name.
        """
        table = schema.nodes
        with queries.change(self._engine) as tx:
            found = tx.execute(sa.update(table).where(table.c.name == name).values(state=state))
            if not found.rowcount:
                raise InputError(unknown(name))

    def remove(self, name: str) -> tuple[str, ...]:
        """Forget a silent node for good; return the models that were on it, now queued again.

        Raises:
            InputError: no node has that name, or it is not silent.
        """
        with queries.change(self._engine) as tx:
            silent = self._is_silent(tx, name)
            if silent is None:
                raise InputError(unknown(name))
            if not silent:
                raise InputError(
                    f"{name} is there: stop Modelium on it first (`modelium nodes drain {name}` "
                    "moves its models before)"
                )
            gone = self._give_up(tx, name, None, reason=f"{name} was removed")
            for table in (
                schema.strays,
                schema.copies,
                schema.parts,
                schema.traffic,
                schema.questions,
            ):
                tx.execute(sa.delete(table).where(table.c.node == name))
            tx.execute(sa.delete(schema.nodes).where(schema.nodes.c.name == name))
        return gone

    def _is_silent(self, tx: Connection, name: str) -> bool | None:
        """Return whether a node is silent, and stays so until ``tx`` ends; ``None``: no node."""
        table = schema.nodes
        # Heartbeats wait for no writer, but for this row.
        seen = sa.select(table.c.seen_at).where(table.c.name == name).with_for_update()
        at = tx.scalar(seen)
        return None if at is None else Node(name=name, silent_s=database_time(tx) - at).silent

    def issue_token(self) -> str:
        """Return a new join token; it is valid for a day, once."""
        token = f"{TOKEN_PREFIX}{secrets.token_urlsafe(32)}"
        with self._engine.begin() as tx:
            now, table = database_time(tx), schema.join_tokens
            tx.execute(sa.delete(table).where(table.c.until < now))
            tx.execute(sa.insert(table).values(hash=digest(token), until=now + TOKEN_S))
        return token

    # --- what silent nodes hold -------------------------------------------------------------

    def relieve(self, node: str, models: Iterable[str], *, reason: str) -> tuple[str, ...]:
        """Queue ``models`` again, which a silent node holds; return those that were.

        The node clears what it may still run of them before anything is loaded on it again.

        Raises:
            NotPlanner: another node plans by now.
        """
        with queries.change(self._engine) as tx:
            self._planner.check(tx)
            if not self._is_silent(tx, node):
                return ()
            return self._give_up(tx, node, frozenset(models), reason=reason)

    def _give_up(
        self, tx: Connection, node: str, names: frozenset[str] | None, *, reason: str
    ) -> tuple[str, ...]:
        """Note the deployments on ``node`` as strays, and queue their models again."""
        gone, now = [], database_time(tx)
        documents = tx.scalars(sa.select(schema.deployments.c.document)).all()
        for deployment in (parsed(Deployment, document) for document in documents):
            name = deployment.model
            if node not in deployment.nodes or (names is not None and name not in names):
                continue
            row = {"model": name, "at": now, "document": deployment.model_dump(mode="json")}
            put(tx, schema.strays, [{"node": each, **row} for each in deployment.nodes])
            for table in (schema.bookings, schema.deployments, schema.parts):
                tx.execute(sa.delete(table).where(table.c.model == name))
            state = queries.state(tx, name)
            if state in (ModelState.DRAINING, ModelState.SLEEPING):
                queries.transition(tx, name, ModelState.UNLOADING, now)
            if names is None and state in LEAVING:
                queries.transition(tx, name, ModelState.UNLOADED, now, reason=reason)
                continue
            queries.transition(tx, name, ModelState.QUEUED, now, reason=reason, queued_at=now)
            gone.append(name)
        return tuple(gone)

    def strays(self, node: str) -> tuple[Deployment, ...]:
        """Return what ``node`` has to clear."""
        table = schema.strays
        with reading(self._engine) as tx:
            found = tx.scalars(sa.select(table.c.document).where(table.c.node == node))
            return tuple(parsed(Deployment, document) for document in found)

    def cleared(self, node: str, model: str) -> None:
        """Note that ``node`` runs nothing of a stray any more."""
        table = schema.strays
        with queries.change(self._engine) as tx:
            tx.execute(sa.delete(table).where(table.c.node == node, table.c.model == model))

    # --- files --------------------------------------------------------------------------------

    def note_copies(self, node: str, copies: Iterable[tuple[str, int]]) -> None:
        """Set which versions (model, number) ``node`` has the files of."""
        table, wanted = schema.copies, set(copies)
        with own_rows(self._engine) as tx:
            mine = table.c.node == node
            query = sa.select(table.c.model, table.c.version).where(mine)
            known = {(row.model, row.version) for row in tx.execute(query)}
            now = database_time(tx)
            rows = [
                {"node": node, "model": model, "version": version, "at": now}
                for model, version in sorted(wanted - known)
            ]
            put_missing(tx, table, rows)
            for model, version in known - wanted:
                this = sa.and_(mine, table.c.model == model, table.c.version == version)
                tx.execute(sa.delete(table).where(this))

    def copies(self) -> dict[tuple[str, int], frozenset[str]]:
        """Return (model, version) → nodes that have its files."""
        table, found = schema.copies, dict[tuple[str, int], set[str]]()
        with reading(self._engine) as tx:
            for row in tx.execute(sa.select(table.c.node, table.c.model, table.c.version)):
                found.setdefault((row.model, row.version), set()).add(row.node)
        return {key: frozenset(nodes) for key, nodes in found.items()}


def unknown(name: str) -> str:
    """Return the sentence for a name that no node has."""
    return f"no node is called {name!r}; `modelium nodes` lists them"


def _no_token(name: str, *, taken: bool) -> str:
    how = (
        "make a token with `modelium nodes token` on a machine that has joined, and give it here "
        "as orchestration.join_token (MODELIUM_JOIN_TOKEN)"
    )
    if taken:
        return (
            f"orchestration.node: another machine joined this store as {name!r}, or this one lost "
            f"its state folder; choose another name, or {how}"
        )
    return f"this machine has not joined the machines of this store yet; {how}"
