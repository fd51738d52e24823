"""A full disk, a store that somebody else holds, connections and bodies without end."""

from __future__ import annotations

import random
import socket
import sqlite3
import time
from contextlib import closing, suppress

import httpx

from tests.chaos.ground import Ground, Unaimed

CONNECTIONS = 1024
BLOCK = b"\0" * 2**20


def disk_full(ground: Ground, rng: random.Random) -> None:
    """Fill the file system of the service for some seconds, with a drop just before."""
    if not ground.mounted:  # only a file system of its own may be filled
        raise Unaimed
    filler = ground.folder / "filler"
    ground.drop()
    time.sleep(rng.uniform(0.0, 0.8))
    try:
        with ground.client.excused(), filler.open("wb", buffering=0) as file:
            for size in (2**20, 2**12, 2**10):
                with suppress(OSError):
                    while True:
                        file.write(BLOCK[:size])
            time.sleep(rng.uniform(2.0, 6.0))
    finally:
        filler.unlink(missing_ok=True)


def store_locked(ground: Ground, rng: random.Random) -> None:
    """Hold the write lock of the store for some seconds, with a drop just before."""
    ground.drop()
    time.sleep(rng.uniform(0.0, 0.8))
    file = ground.service.state / "modelium.db"
    with closing(sqlite3.connect(file, timeout=10, isolation_level=None)) as store:
        try:
            store.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            raise Unaimed from None
        time.sleep(rng.uniform(2.0, 12.0))
        store.execute("ROLLBACK")


def _connected(ground: Ground) -> socket.socket:
    address = httpx.URL(ground.client.url)
    return socket.create_connection((address.host, address.port or 80), timeout=5)


def half_open(ground: Ground, rng: random.Random) -> None:
    """Open connections that never finish a request, as many as a shell allows descriptors."""
    held: list[socket.socket] = []
    try:
        with suppress(OSError):  # closed at once, or refused
            for _ in range(CONNECTIONS):
                held.append(_connected(ground))
                if rng.random() < 0.5:
                    held[-1].sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Some")
        ground.drop()
        time.sleep(rng.uniform(1.0, 3.0))
    finally:
        for each in held:
            each.close()


def slow_bodies(ground: Ground, rng: random.Random) -> None:
    """Send bodies byte by byte, and end some connections in the middle."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 100000\r\n\r\n{"
    held: list[socket.socket] = []
    try:
        for _ in range(50):
            with suppress(OSError):
                held.append(_connected(ground))
                held[-1].sendall(head)
        until = time.monotonic() + rng.uniform(1.0, 4.0)
        while time.monotonic() < until:
            for each in list(held):
                with suppress(OSError):
                    each.sendall(b" ")
                if rng.random() < 0.02:
                    held.remove(each)
                    each.close()
            time.sleep(0.1)
    finally:
        for each in held:
            each.close()
