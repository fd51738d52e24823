"""PostgreSQL as the store: how connections are made, and what each transaction begins with.

Nothing here outlives a transaction, so a pooler in transaction mode may be in between: no session
settings or locks, no prepared statements.
"""

from __future__ import annotations

import json
import re
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Engine

TRANSACTION_KEY = 0x7472616E73616374
"""Of the advisory lock that a writer holds: "transact" in ASCII."""

LOCK_S = 10
"""How long a writer waits for another one, as with SQLite."""

STATEMENT_S = 30
"""Of a single statement: most take milliseconds, pruning a long log some seconds."""

POOL, OVERFLOW = 4, 11
"""Connections that are kept, and opened beyond: together more than `AsyncStore` has threads."""

CONNECTION: dict[str, Any] = {
    "application_name": "modelium",
    "connect_timeout": 5,  # seconds, for each host
    # A server that vanished without a word is noticed in half a minute, not in two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # milliseconds
    "prepare_threshold": None,
}
"""Arguments of connections, where the URL has no others."""

WRITE = (
    # The wait for the lock has a bound of its own; whatever the role's default is.
    f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{LOCK_S}s';"
    f" SELECT pg_advisory_xact_lock({TRANSACTION_KEY});"
    f" SET LOCAL statement_timeout = '{STATEMENT_S}s'"
)
"""Begins a writing transaction. One writer at a time, as with SQLite, makes read-check-book atomic
between processes; READ COMMITTED then shows it all that was committed before. SERIALIZABLE would
have every caller try again, and more often the busier the store is."""

BOUNDED = f"SET LOCAL statement_timeout = '{STATEMENT_S}s'"
"""Begins a transaction that reads, or writes only rows of its own node."""

MIGRATE = "SET LOCAL statement_timeout = 0"
"""Tables of millions of rows take longer."""

UNREADABLE, LOST = re.compile("[\0\ud800-\udfff]"), "\N{REPLACEMENT CHARACTER}"
"""Characters that no column takes, and what is stored for them."""


def engine(url: sa.URL) -> Engine:
    """Return an engine for ``url``; raises `ImportError` without psycopg."""
    made = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args={k: v for k, v in CONNECTION.items() if k not in url.query},
        pool_size=POOL,
        max_overflow=OVERFLOW,
        pool_pre_ping=True,
        use_native_hstore=False,
        json_serializer=dumps,
    )
    sa.event.listen(made, "before_cursor_execute", _without_nul, retval=True)
    return made


def string(length: int) -> sa.types.TypeEngine[str]:
    """Return the type of names, which sort by code point on every database.

    PostgreSQL, unlike SQLite, would enforce ``length``, and twins have longer names.
    """
    return sa.String(length).with_variant(postgresql.VARCHAR(collation="C"), "postgresql")


def dumps(document: object) -> str:
    """Return ``document`` as JSON; what PostgreSQL cannot read back becomes U+FFFD.

    Text of a model folder may have characters (NUL, half a surrogate pair) that PostgreSQL
    stores escaped, and then fails on in every query that looks into the document.
    """
    text = json.dumps(document)
    return json.dumps(_clean(document)) if r"\u0000" in text or r"\ud" in text else text


def _clean(value: Any) -> Any:
    match value:
        case str():
            return UNREADABLE.sub(LOST, value)
        case dict():
            return {_clean(key): _clean(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_clean(inner) for inner in value]
    return value


def _without_nul(
    _connection: object, _cursor: object, statement: str, parameters: Any, *_: object
) -> tuple[str, Any]:
    if isinstance(parameters, list):
        return statement, [_row(row) for row in parameters]
    return statement, _row(parameters)


def _row(row: Any) -> Any:
    """Return the parameters of a statement without NUL characters, which no column takes."""
    if not isinstance(row, dict) or not any(isinstance(v, str) and "\0" in v for v in row.values()):
        return row
    return {k: v.replace("\0", LOST) if isinstance(v, str) else v for k, v in row.items()}
