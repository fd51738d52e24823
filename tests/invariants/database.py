"""The store's tables, read from the database by a connection that cannot write."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """All that the invariants are about, of one transaction."""

    models: tuple[Row, ...]
    versions: tuple[Row, ...]
    bookings: tuple[Row, ...]
    deployments: tuple[Row, ...]
    """The documents."""
    decisions: tuple[Row, ...]
    """Documents of those that are accepted and not finished."""
    intents: tuple[Row, ...]
    """Documents of those that are pending."""


MODELS = "SELECT name, version, state, state_since, removal, twin_of FROM models"
VERSIONS = "SELECT model, version, path, digest, removed_at FROM versions"
BOOKINGS = "SELECT model, device, bytes, releasing FROM bookings"
DEPLOYMENTS = "SELECT document FROM deployments"
DECISIONS = "SELECT document FROM decisions WHERE {outcome} = 'accepted'"
INTENTS = "SELECT document FROM intents WHERE {state} = 'pending'"


def read(file: Path) -> Tables:
    """Return what the SQLite database ``file`` says."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")  # one snapshot of all tables

        def rows(query: str) -> tuple[Row, ...]:
            return tuple(dict(row) for row in connection.execute(query))

        def documents(query: str) -> tuple[Row, ...]:
            return tuple(json.loads(row["document"]) for row in connection.execute(query))

        return Tables(
            models=rows(MODELS),
            versions=rows(VERSIONS),
            bookings=rows(BOOKINGS),
            deployments=documents(DEPLOYMENTS),
            decisions=documents(DECISIONS.format(outcome="json_extract(document, '$.outcome')")),
            intents=documents(INTENTS.format(state="json_extract(document, '$.state')")),
        )


def of_postgresql(url: str) -> Tables:
    """Return what the PostgreSQL database at ``url`` says."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

        def rows(query: str) -> tuple[Row, ...]:
            return tuple(connection.execute(query.encode()).fetchall())

        def documents(query: str) -> tuple[Row, ...]:
            return tuple(row["document"] for row in rows(query))

        return Tables(
            models=rows(MODELS),
            versions=rows(VERSIONS),
            bookings=rows(BOOKINGS),
            deployments=documents(DEPLOYMENTS),
            decisions=documents(DECISIONS.format(outcome="document ->> 'outcome'")),
            intents=documents(INTENTS.format(state="document ->> 'state'")),
        )
