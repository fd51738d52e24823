"""Times that lie in the future because the clock was set back while no service ran."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from modelium.models import Deployment
from modelium.store import queries, schema
from modelium.store.documents import parsed


def clamp(tx: Connection, now: float, *, longest_pause_s: float) -> None:
    """Move what lies after ``now`` (epoch) to ``now``, and due times to the longest pause."""
    table = schema.models
    for column, latest in (
        (table.c.state_since, now),
        (table.c.evicted_at, now),
        (table.c.queued_at, now),
        (table.c.retry_at, now + longest_pause_s),
    ):
        tx.execute(sa.update(table).where(column > latest).values({column: latest}))
    ahead = schema.departures
    tx.execute(sa.delete(ahead).where(ahead.c.at > now))  # what it stands for has no date any more
    for document in tx.scalars(sa.select(schema.deployments.c.document)).all():
        deployment = parsed(Deployment, document)
        late = {
            name: now
            for name in ("started_at", "ready_at")
            if (getattr(deployment, name) or 0.0) > now
        }
        if late:
            queries.save_deployment(tx, deployment.model_copy(update=late))
    seen = schema.traffic
    for row in tx.execute(sa.select(seen)).all():
        if (row.document.get("last_request_at") or 0.0) > now:
            this = sa.and_(seen.c.node == row.node, seen.c.model == row.model)
            document = {**row.document, "last_request_at": now}
            tx.execute(sa.update(seen).where(this).values(document=document))
