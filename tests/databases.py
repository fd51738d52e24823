"""SQLite for tests: the schema is made once per process and copied, and no write is synced."""

from __future__ import annotations

import functools
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from modelium.store import Store


def migrated(file: Path) -> Path:
    """Make ``file`` an empty store of the present schema, unless it exists; return it."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_template())
    return file


@functools.cache
def _template() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "modelium.db"
        Store.open(f"sqlite:///{file}", now=lambda: 0.0).close()
        return file.read_bytes()


def never_sync() -> None:
    """Have SQLite wait for no disk from now on: no test pulls the machine's plug."""

    @sa.event.listens_for(sa.pool.Pool, "checkout")
    def _on_checkout(connection: Any, record: Any, _proxy: Any) -> None:
        if isinstance(connection, sqlite3.Connection) and "unsynced" not in record.info:
            record.info["unsynced"] = True
            connection.execute("PRAGMA synchronous=OFF")
