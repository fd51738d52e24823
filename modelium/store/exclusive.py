"""One service per store: two would take each other's models for lost."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from modelium import private
from modelium.errors import InputError

ADVISORY_KEY = 0x6D6F64656C69756D
"""Of PostgreSQL's lock: "modelium" in ASCII."""


@contextmanager
def exclusive(engine: Engine) -> Iterator[None]:
    """Be the store's one service while the body runs; a process that dies lets go of it.

    Raises:
        InputError: another service is.
    """
    held = _postgresql(engine) if engine.dialect.name == "postgresql" else _sqlite(engine)
    with held:
        yield


@contextmanager
def _sqlite(engine: Engine) -> Iterator[None]:
    with open(f"{engine.url.database}.lock", "a", opener=private.opener) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(engine) from None
        yield


@contextmanager
def _postgresql(engine: Engine) -> Iterator[None]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as session:
        if not session.scalar(sa.select(sa.func.pg_try_advisory_lock(ADVISORY_KEY))):
            raise _taken(engine)
        try:
            yield
        finally:
            session.invalidate()  # the lock is the connection's, which must not go on in the pool


def _taken(engine: Engine) -> InputError:
    return InputError(
        f"store.url: another Modelium service uses {engine.url!r}; stop it, or give this one a "
        "store of its own"
    )
