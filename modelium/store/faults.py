"""What the database's own errors mean, in one sentence that says what to do."""

from __future__ import annotations

import shutil
import sqlite3
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Engine, ExceptionContext

from modelium.errors import StoreUnavailable


class Fault(StrEnum):
    """Why the database does not serve; the slug for JSON responses."""

    LOCKED = "store-locked"
    FULL = "store-full"
    FAILING = "store-failing"
    UNREACHABLE = "store-unreachable"
    DAMAGED = "store-damaged"
    TAKEN = "store-taken"


SENTENCES = {
    Fault.LOCKED: "the store {store} is locked by another process{then}",
    Fault.FULL: "the disk of the store {store} is full: free space{then}",
    Fault.FAILING: "the store {store} cannot be read or written ({why}): check its disk and who "
    "may write there{then}",
    Fault.UNREACHABLE: "the store {store} cannot be reached ({why}){then}",
    Fault.DAMAGED: "the store {store} is damaged ({why}): stop Modelium and go back to a backup "
    "with `{restore}`",
    Fault.TAKEN: "another Modelium service ({why}) has taken over the store {store}, because this "
    "one had not renewed its lease in time: stop one of them",
}

THEN = "; Modelium goes on by itself afterwards"

SQLITE = {
    sqlite3.SQLITE_BUSY: Fault.LOCKED,
    sqlite3.SQLITE_LOCKED: Fault.LOCKED,
    sqlite3.SQLITE_PROTOCOL: Fault.LOCKED,
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_IOERR: Fault.FAILING,
    sqlite3.SQLITE_READONLY: Fault.FAILING,
    sqlite3.SQLITE_PERM: Fault.FAILING,
    sqlite3.SQLITE_NOMEM: Fault.FAILING,
    sqlite3.SQLITE_CANTOPEN: Fault.UNREACHABLE,
    sqlite3.SQLITE_CORRUPT: Fault.DAMAGED,
    sqlite3.SQLITE_NOTADB: Fault.DAMAGED,
}
"""By primary result code; others, such as a missing table, are bugs and stay what they are."""

POSTGRESQL = {
    "40P01": Fault.LOCKED,
    "55P03": Fault.LOCKED,
    "53100": Fault.FULL,
    "08": Fault.UNREACHABLE,
    "28": Fault.UNREACHABLE,
    "3D": Fault.UNREACHABLE,
    "53300": Fault.UNREACHABLE,
    "57P": Fault.UNREACHABLE,
    "25006": Fault.FAILING,  # a standby, or a disk that is nearly full
    "42501": Fault.FAILING,
    "53": Fault.FAILING,
    "57014": Fault.FAILING,  # it took longer than a statement may
    "58": Fault.FAILING,
    "XX001": Fault.DAMAGED,
    "XX002": Fault.DAMAGED,
}
"""By SQLSTATE or its beginning; the longest one counts. Others are bugs and stay what they are."""

LEAST_FREE_BYTES = 64 * 1024
"""With less, SQLite's files beside the database cannot be made: it reports an I/O error then, or
that it cannot open the database."""


SECRETS = ("password", "sslpassword")
"""Parameters of a URL that libpq takes, and nobody is shown."""


def translate(engine: Engine) -> None:
    """Have ``engine`` raise `StoreUnavailable` where its database does not serve.

    Connections that such an error came from are not used again.
    """

    @sa.event.listens_for(engine, "handle_error", retval=True)
    def _on_error(context: ExceptionContext) -> BaseException | None:
        fault = _fault(engine, context)
        if fault is None:
            return None
        if fault is not Fault.LOCKED:
            # What SQLite keeps of the file may be older than what is there when it serves again.
            context.is_disconnect = True
        # An SQLAlchemy error has statement and parameters in its text; the original one has not.
        why = " ".join(str(context.original_exception).split())
        return unavailable(engine, fault, why=why)


def unavailable(engine: Engine, fault: Fault, *, why: str) -> StoreUnavailable:
    """Return the error that says ``fault`` of the database of ``engine``."""
    restore = "modelium restore" if engine.dialect.name == "sqlite" else "pg_restore"
    sentence = SENTENCES[fault].format(store=place(engine), why=why, then=THEN, restore=restore)
    return StoreUnavailable(sentence, reason=fault.value)


def place(engine: Engine) -> str:
    """Return where the database is: its file, or its URL without the password."""
    if engine.dialect.name == "sqlite":
        return engine.url.database or ":memory:"
    return shown(engine.url)


def shown(url: sa.URL) -> str:
    """Return ``url`` without passwords, and without the name of its Python driver."""
    bare = url.difference_update_query(SECRETS)
    return repr(bare.set(drivername=bare.get_backend_name()))


def _fault(engine: Engine, context: ExceptionContext) -> Fault | None:
    original = context.original_exception
    if isinstance(original, sqlite3.Error):
        # Errors of the module itself, such as a closed connection, have no code.
        fault = SQLITE.get(getattr(original, "sqlite_errorcode", 0) & 0xFF)
        if fault in (Fault.FAILING, Fault.UNREACHABLE) and _is_full(engine):
            return Fault.FULL
        return fault
    if engine.dialect.name == "sqlite":
        return None
    code = getattr(original, "sqlstate", None) or ""
    for length in (5, 3, 2):
        if known := POSTGRESQL.get(code[:length]):
            return known
    # What its client says without the server, such as that there is none, has no code.
    operational = isinstance(context.sqlalchemy_exception, sa.exc.OperationalError)
    return Fault.UNREACHABLE if context.is_disconnect or (operational and not code) else None


def _is_full(engine: Engine) -> bool:
    folder = (engine.url.database or ".").rpartition("/")[0] or "."
    try:
        return shutil.disk_usage(folder).free < LEAST_FREE_BYTES
    except OSError:
        return False
