"""Copies of the store: made while a service writes to it, and put back while none does.

A copy is one SQLite file, which an empty store on PostgreSQL takes, too. It has what the store has:
models, versions with paths and digests, bookings, decisions, events, traffic, and the hashes of API
keys, but no secret. Model files are not in it.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa
from alembic.config import Config as AlembicConfig
from alembic.script import Script, ScriptDirectory

from modelium import private
from modelium.errors import InputError
from modelium.store.connection import MIGRATIONS, connect, file_of, migrate
from modelium.store.exclusive import exclusive
from modelium.store.faults import shown
from modelium.store.store import Store
from modelium.store.transfer import carry

SUFFIXES = ("-wal", "-shm")
"""Of the files that SQLite keeps beside a database."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """What is in a copy of the store."""

    file: str
    schema: str
    """Revision of the tables."""
    versions: int
    """Registered versions of models."""
    missing: tuple[str, ...]
    """Folders of versions that are not there (any more)."""


def write(url: str, file: Path) -> Copy:
    """Copy the store at ``url`` to the new ``file``; whoever writes to the store goes on.

    Raises:
        InputError: the store is no SQLite file, or ``file`` is there or cannot be written.
    """
    source = _file(url, advice="back it up with `pg_dump` instead")
    if not source.exists():
        raise InputError(f"there is no store at {source}; name the configuration of the service")
    if file.exists():
        raise InputError(f"{file} is there already; name another file, or move it away")
    with _fresh(file) as new:
        with closing(_connect(source, "rw")) as here:
            _copy(here, new)
        found = look(new)
        try:
            os.link(new, file)  # unlike a rename it replaces nothing
        except FileExistsError:
            raise InputError(f"{file} is there already; name another file") from None
    return replace(found, file=str(file))


def restore(url: str, file: Path) -> tuple[Copy, Path | None]:
    """Replace the store at ``url`` by ``file``, brought up to date; return it, and the old one.

    The old store stays beside the new one. On PostgreSQL it has to be empty.

    Raises:
        InputError: a service uses the store; ``file`` is no copy, is damaged, or is newer than this
            Modelium.
    """
    if sa.make_url(url).get_backend_name() == "postgresql":
        look(file)
        return _carry(url, file), None
    target = _file(url, advice="restore it with its own tools instead")
    look(file)
    engine = connect(url)  # makes its folder
    try:
        with exclusive(engine):
            with _fresh(target) as new:
                with closing(_connect(file, "ro")) as there:
                    _copy(there, new)
                upgraded = connect(f"sqlite:///{new}")
                migrate(upgraded)
                upgraded.dispose()
                found = look(new)
                old = _put_aside(target)
                new.replace(target)
            return replace(found, file=str(target)), old
    finally:
        engine.dispose()


def _carry(url: str, file: Path) -> Copy:
    """Copy ``file`` into the empty store at ``url``, on PostgreSQL."""
    with tempfile.TemporaryDirectory() as folder, _fresh(Path(folder) / "copy") as new:
        with closing(_connect(file, "ro")) as there:
            _copy(there, new)
        source = connect(f"sqlite:///{new}")
        store = Store.open(url, now=time.time)
        try:
            migrate(source)
            carry(source, store._engine)
            place = shown(store._engine.url)
        finally:
            source.dispose()
            store.close()
        return replace(look(new), file=place)


def look(file: Path) -> Copy:
    """Return what is in a copy.

    Raises:
        InputError: it is none, is damaged, or is newer than this Modelium.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    known = {script.revision for script in _scripts()}
    try:
        with closing(_connect(file, "ro")) as copy:
            (state,) = copy.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":
                raise InputError(f"{file} is damaged: {state}")
            (schema,) = copy.execute("SELECT version_num FROM alembic_version").fetchone()
            rows = copy.execute("SELECT * FROM versions")
            names = [column[0] for column in rows.description]
            versions = [dict(zip(names, row, strict=True)) for row in rows]
    except (sqlite3.Error, TypeError) as exc:
        raise InputError(f"{file} is no copy of a store ({exc})") from exc
    if schema not in known:
        raise InputError(
            f"{file} was written by a newer Modelium (tables {schema}): install that one first"
        )
    kept = [row for row in versions if row.get("removed_at") is None]
    missing = sorted(row["path"] for row in kept if not Path(row["path"]).exists())
    return Copy(file=str(file), schema=schema, versions=len(kept), missing=tuple(missing))


def _scripts() -> Iterator[Script]:
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    return ScriptDirectory.from_config(config).walk_revisions()


def _file(url: str, *, advice: str) -> Path:
    file = file_of(url)
    if file is None:
        raise InputError(f"the store is no SQLite file but {sa.make_url(url)!r}; {advice}")
    return file


def _connect(file: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True)


@contextmanager
def _fresh(file: Path) -> Iterator[Path]:
    """Yield a new file beside ``file`` that only this user may read; it is gone afterwards.

    Others may be able to write to the folder: no name that they could guess is used, and nothing
    that is there.
    """
    new = file.with_name(f".{file.name}.{secrets.token_hex(16)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        os.close(os.open(new, flags, 0o600))
        yield new
    except OSError as exc:
        raise InputError(f"cannot write {file} ({exc.strerror or exc})") from exc
    finally:
        for suffix in ("", *SUFFIXES):
            Path(f"{new}{suffix}").unlink(missing_ok=True)


def _copy(source: sqlite3.Connection, target: Path) -> None:
    """Copy one state of a database; a writer of it neither waits nor is waited for."""
    try:
        with closing(sqlite3.connect(target)) as there:
            source.backup(there)
            # Readers of one file want no second one beside it.
            there.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as exc:
        raise InputError(f"cannot copy the store to {target.parent} ({exc})") from exc
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_aside(target: Path) -> Path | None:
    """Give the database at ``target`` another name beside it, and return that."""
    if not target.exists() or not target.stat().st_size:
        return None
    try:
        with closing(sqlite3.connect(target)) as old:
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error:
        pass  # it is damaged: its files are kept as they are
    aside = target.with_name(f"{target.name}.{time.strftime('%Y%m%d-%H%M%S')}")
    for suffix in SUFFIXES:
        if (part := Path(f"{target}{suffix}")).exists():
            part.replace(f"{aside}{suffix}")
    os.link(target, aside)
    private.tighten(aside)
    return aside
