"""Connections to the store's database, and its schema brought up to date."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection, Engine

from modelium import private
from modelium.config.folders import make
from modelium.errors import InputError
from modelium.store import faults, postgresql, schema

logger = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"

BUSY_TIMEOUT_S = 10.0
"""How long a SQLite writer waits for another writer; transactions take milliseconds. Clients of the
admin API wait longer, so that they are told."""


SINCE = "since"

READS = "modelium_reads"
"""Execution option of connections that only read."""


OWN_ROWS = "modelium_own_rows"
"""Execution option of connections that write only rows of their own node, or add to sums."""


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that sees one state of the database and waits for no writer."""
    options: dict[str, Any] = {READS: True}
    if engine.dialect.name == "postgresql":
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with engine.connect().execution_options(**options) as tx:
        yield tx


def reads(connection: Connection) -> bool:
    """Return whether the transaction of ``connection`` is one of `reading`."""
    return bool(connection.get_execution_options().get(READS))


@contextmanager
def own_rows(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that writes only rows that no other node writes, or adds to sums.

    With PostgreSQL it waits for no other writer: heartbeats of many nodes do not delay plans.
    """
    with engine.connect().execution_options(**{OWN_ROWS: True}) as tx, tx.begin():
        yield tx


def migrate(engine: Engine) -> None:
    """Migrate the schema under the write lock, since several processes may start at once.

    Tables that a newer Modelium has changed stay as they are, where it has only added to them.

    Raises:
        InputError: it has changed what this version uses.
    """
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(postgresql.MIGRATE)
        if _is_newer(connection, ScriptDirectory.from_config(config)):
            return
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def has_tables(engine: Engine) -> bool:
    """Whether a Modelium that knows of several machines has opened this database."""
    with reading(engine) as tx:
        return sa.inspect(tx).has_table(schema.nodes.name)


def _is_newer(connection: Connection, scripts: ScriptDirectory) -> bool:
    """Whether a newer Modelium has made these tables; raises `InputError` if this one cannot go on.

    The row ``since`` of the table ``meta`` is the first revision whose Modelium can use them.
    """
    found = MigrationContext.configure(connection).get_current_revision()
    head = scripts.get_current_head() or ""
    if found is None or found in {script.revision for script in scripts.walk_revisions()}:
        return False
    table = schema.meta
    since = connection.scalar(sa.select(table.c.value).where(table.c.key == SINCE))
    if since is None or since > int(head):
        raise InputError(
            f"a newer Modelium has changed its tables (revision {found}, this one knows {head}); "
            "upgrade Modelium on this machine, too"
        )
    logger.warning(
        "a newer Modelium has added to the store's tables (revision %s, this one knows %s): this "
        "machine goes on, and should be upgraded soon",
        found,
        head,
    )
    return True


def file_of(url: str) -> Path | None:
    """Return the file of the SQLite database at ``url``; None: it is no such."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database)


def is_shared(url: str) -> bool:
    """Whether several nodes may use the store at ``url``."""
    return sa.make_url(url).get_backend_name() == "postgresql"


def secret_files(url: str, environ: Mapping[str, str]) -> list[Path]:
    """Return the files with the store at ``url``, or that open it: passwords and keys."""
    if file := file_of(url):
        return [Path(f"{file.absolute()}{end}") for end in ("", "-wal", "-shm", "-journal")]
    named = (sa.make_url(url).query.get(name) for name in ("passfile", "sslkey"))
    defaults = (environ.get(name) for name in ("PGPASSFILE", "PGSSLKEY"))
    return [Path(file).absolute() for file in (*named, *defaults) if file and isinstance(file, str)]


def connect(url: str) -> Engine:
    """Return an engine for ``url``; it connects with the first transaction.

    Raises:
        InputError: no database can be meant, its driver is missing, or its folder cannot be made.
    """
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "postgresql":
            return _on_postgresql(parsed)
        if parsed.get_backend_name() != "sqlite":
            raise sa.exc.ArgumentError
    except ImportError as exc:
        raise InputError(
            f"store.url: the Python package {exc.name} is missing; install Modelium with its extra "
            "`postgres` (or psycopg[binary] beside it), or leave store.url out for SQLite"
        ) from exc
    except sa.exc.ArgumentError:
        # Its message may have the URL, and so a password.
        raise InputError(
            "store.url: not a database; allowed: postgresql://USER:PASSWORD@HOST/NAME, or "
            "sqlite:////FILE"
        ) from None
    if parsed.database and parsed.database != ":memory:":
        file = Path(parsed.database)
        make("store.url", file.parent)
        _close_to_others(file)
    engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S})

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the begin hook below says when transactions start
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        # Taking the write lock at once is what makes read-check-book atomic between processes;
        # a deferred transaction would fail half way with "database is locked".
        connection.exec_driver_sql("BEGIN" if reads(connection) else "BEGIN IMMEDIATE")

    faults.translate(engine)
    return engine


def _close_to_others(file: Path) -> None:
    """Make ``file`` this user's alone; SQLite gives its mode to the files that it adds."""
    with suppress(OSError):  # whether it can be opened is SQLite's to say
        file.touch(mode=0o600)
        for suffix in ("", "-wal", "-shm"):
            if (part := Path(f"{file}{suffix}")).exists():
                private.tighten(part)


def _on_postgresql(url: sa.URL) -> Engine:
    engine = postgresql.engine(url)
    faults.translate(engine)

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        alone = reads(connection) or connection.get_execution_options().get(OWN_ROWS)
        connection.exec_driver_sql(postgresql.BOUNDED if alone else postgresql.WRITE)

    return engine
