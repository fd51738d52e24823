"""The ``store`` section."""

from __future__ import annotations

from modelium.config.fields import Secret, Section, setting


class StoreSection(Section):
    """Modelium's own database."""

    url: Secret | None = setting(
        None,
        "URL of the database: `postgresql://USER@HOST/NAME`, or `sqlite:////FILE`. The password "
        "may be in it, in the environment or in a file (docs/machines.md).",
        why="Null: SQLite in the state directory, for one machine. Several share a store on "
        "PostgreSQL, which needs Modelium's extra `postgres`.",
    )
