"""What the machines share: PostgreSQL and Prefect, both in the hub."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests import postgresql
from tests.machines.network import HUB, SUBNET, Network

PREFECT_PORT = 4200
WITHIN_S = 300.0
"""For Prefect to answer, on a machine that has much else to do."""
SPARE = ("shared_buffers=16MB", "max_connections=60")


class Postgres(postgresql.Server):
    """A server that listens in the hub for the machines, and on a Unix socket for the observer."""

    def __init__(self, *, folder: Path, network: Network) -> None:
        """``folder``: of the server's account."""
        super().__init__(folder=folder)
        self._network = network

    def initialize(self) -> None:
        """Make the cluster; machines of the network may connect."""
        super().initialize()
        with (self.folder / "data" / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {SUBNET}.0/24 scram-sha-256\n")

    def start(self) -> None:
        """Start the server in the hub, and wait until it answers."""
        user = postgresql.account()
        entry = pwd.getpwnam(user) if user else None
        within = self._network.within(HUB, account=(entry.pw_uid, entry.pw_gid) if entry else None)
        settings = (
            f"listen_addresses={self._network.address(HUB)}",
            f"unix_socket_directories={self.folder}",
            *postgresql.SPEED,
            *SPARE,
        )
        command = [postgresql._binary("postgres"), "-D", str(self.folder / "data")]
        self.process = subprocess.Popen(
            [*within, *command, *(word for setting in settings for word in ("-c", setting))],
            cwd=self.folder,
            stdout=(self.folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        ready = [postgresql._binary("pg_isready"), "-q", "-h", str(self.folder)]
        while subprocess.run(ready).returncode:
            assert self.process.poll() is None, (self.folder / "log").read_text()

    def address(self, database: str) -> str:
        """Return the URL of a database for a machine."""
        host = self._network.address(HUB)
        return f"postgresql://{postgresql.USER}:{self.password}@{host}:5432/{database}"

    @contextmanager
    def snapshot(self, database: str) -> Iterator[psycopg.Cursor[dict[str, Any]]]:
        """Yield a cursor over one state of the database, beside the network."""
        with psycopg.connect(self.url(database), row_factory=dict_row) as session:
            session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            session.read_only = True
            with session.cursor() as cursor:
                yield cursor


@contextmanager
def postgres(network: Network) -> Iterator[Postgres]:
    """Yield a running server with an empty database ``modelium``."""
    with postgresql.folder() as folder:
        found = Postgres(folder=folder, network=network)
        found.initialize()
        found.start()
        try:
            found.sql("CREATE DATABASE modelium")
            yield found
        finally:
            found.stop()


@contextmanager
def prefect(network: Network, folder: Path) -> Iterator[str]:
    """Yield the API's URL of a Prefect server in the hub."""
    host = network.address(HUB)
    api = f"http://{host}:{PREFECT_PORT}/api"
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host]
    folder.mkdir()
    log = folder / "log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [*network.within(HUB), "nice", "-n", "5", *command],
            env=environ, cwd=folder, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        health = [*network.within(HUB), sys.executable, "-c", _ASK, f"{api}/health"]
        deadline = time.monotonic() + WITHIN_S
        while subprocess.run(health, stderr=subprocess.DEVNULL).returncode:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
        yield api
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


_ASK = (
    "import sys, time, urllib.request as r\n"
    "try: r.urlopen(sys.argv[1], timeout=5)\n"
    "except OSError: time.sleep(0.5); sys.exit(1)"
)
