"""The tables of the code and those of the migrations are the same."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from modelium.store import Store
from modelium.store.connection import connect
from modelium.store.schema import metadata


def test_the_tables_are_what_the_migrations_make(url: str, store: Store) -> None:
    engine = connect(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
