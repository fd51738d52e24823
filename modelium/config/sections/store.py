"""The ``store`` section."""

from __future__ import annotations

from modelium.config.fields import Secret, Section, setting


class StoreSection(Section):
    """Modelium's own database."""

    url: Secret | None = setting(
        None,
        "SQLAlchemy URL of the database. It may contain a password.",
        why="Null: SQLite in the state directory. One service uses a store at a time. PostgreSQL "
        "needs the Python package psycopg (`pip install 'psycopg[binary]'`).",
    )
