"""The store's tables, read from the SQLite file by a connection that cannot write."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def read(file: Path) -> Tables:
    """Return what the database ``file`` says."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")  # one snapshot of all tables

        def rows(query: str) -> tuple[Row, ...]:
            return tuple(dict(row) for row in connection.execute(query))

        def documents(query: str) -> tuple[Row, ...]:
            return tuple(json.loads(row["document"]) for row in connection.execute(query))

        return Tables(
            models=rows("SELECT name, version, state, state_since, removal, twin_of FROM models"),
            versions=rows("SELECT model, version, path, digest, removed_at FROM versions"),
            bookings=rows("SELECT model, device, bytes, releasing FROM bookings"),
            deployments=documents("SELECT document FROM deployments"),
            decisions=documents(
                "SELECT document FROM decisions"
                " WHERE json_extract(document, '$.outcome') = 'accepted'"
            ),
            intents=documents(
                "SELECT document FROM intents WHERE json_extract(document, '$.state') = 'pending'"
            ),
        )
