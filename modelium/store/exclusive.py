"""One service per store, or per node of a shared one: two would lose each other's models."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelium import private
from modelium.errors import InputError, StoreUnavailable
from modelium.store.connection import reads
from modelium.store.faults import Fault, shown, unavailable
from modelium.store.lease import NODE_LEASE, TTL_S, Lease

logger = logging.getLogger(__name__)

RENEWAL_S = TTL_S / 3

LOOK_S = 1.0
"""How often a service at its start looks whether the lease of one that died has run out."""


@contextmanager
def exclusive(engine: Engine, node: str = "", *, heir_of: str | None = None) -> Iterator[None]:
    """Be the store's one service while the body runs; a process that dies lets go of it.

    With PostgreSQL it is that of ``node``, and lets go after `TTL_S`, for which the next one waits
    here unless it is the heir. A service that could not renew its lease, and whose place another
    one took, can write no more.

    Raises:
        InputError: another service is.
    """
    held = (
        _postgresql(engine, node, heir_of)
        if engine.dialect.name == "postgresql"
        else _sqlite(engine)
    )
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
def _postgresql(engine: Engine, node: str, heir_of: str | None) -> Iterator[None]:
    begins = f"{heir_of or socket.gethostname()}, process "  # ends one name, of which others go on
    holder = f"{begins}{os.getpid()}, {secrets.token_hex(4)}"
    name = f"{NODE_LEASE}{node}" if node else "service"
    lease = Lease(engine=engine, name=name, holder=holder, heir_of=heir_of and begins)
    ended = threading.Event()
    _take(engine, lease, ended)

    def refuse(connection: Connection) -> None:
        # Its transaction has the write lock: nobody takes the lease before it has ended.
        if not reads(connection) and (other := lease.lost_to(connection)):
            raise unavailable(engine, Fault.TAKEN, why=other)

    sa.event.listen(engine, "begin", refuse)
    renewing = threading.Thread(target=_renew, args=(lease, ended), name="lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        with suppress(StoreUnavailable):  # it runs out by itself
            lease.release()
        sa.event.remove(engine, "begin", refuse)


def _take(engine: Engine, lease: Lease, ended: threading.Event) -> None:
    """Take the lease; wait for one to run out whose holder does not renew it."""
    seen = lease.take()
    while seen is not None:
        ended.wait(LOOK_S)
        again = lease.take()
        if again is not None and again != seen:
            raise _taken(engine, f" ({again.holder})")
        seen = again


def _renew(lease: Lease, ended: threading.Event) -> None:
    while not ended.wait(RENEWAL_S):
        try:
            if not lease.renew():
                lease.regain()
        except StoreUnavailable as exc:
            logger.warning("the service's lease is not renewed: %s", exc)
        except Exception:  # it is tried again as long as the service runs
            logger.exception("the service's lease is not renewed")


def _taken(engine: Engine, who: str = "") -> InputError:
    return InputError(
        f"store.url: another Modelium service{who} uses {shown(engine.url)} as this node; stop it, "
        "give this machine another orchestration.node, or a store of its own"
    )
