"""A PostgreSQL server of one's own, from Debian's packages: in a folder, on a Unix socket alone."""

from __future__ import annotations

import glob
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from modelium.store import Store
from modelium.store.schema import metadata
from tests.fakes.clock import START

USER = "modelium"
SPEED = ("fsync=off", "full_page_writes=off")
"""No test pulls the machine's plug; what a killed server has committed is still in its files."""

CLOCK = (
    "CREATE SCHEMA fake",
    "CREATE TABLE fake.clock (at double precision)",
    "INSERT INTO fake.clock VALUES (0)",
    "CREATE FUNCTION fake.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
    " AS 'SELECT to_timestamp(at) FROM fake.clock'",
    "ALTER DATABASE {name} SET search_path = public, fake, pg_catalog",
)
"""PostgreSQL's own catalogue comes last, so that the other clock is found first."""


def set_time(url: str, at: float) -> None:
    """Set the time of a `Server.clocked` database, in seconds since the epoch."""
    with psycopg.connect(url, autocommit=True) as session:
        session.execute("UPDATE fake.clock SET at = %s", [at])


def account() -> str | None:
    """Return whom to run a server as: PostgreSQL and PgBouncer refuse root."""
    return pwd.getpwnam("nobody").pw_name if os.getuid() == 0 else None


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a folder that the servers' account owns; its path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp", ignore_cleanup_errors=True) as name:
        if user := account():
            shutil.chown(name, user)
        yield Path(name)


@dataclass(kw_only=True)
class Server:
    """A PostgreSQL server; `start` and `kill` it as often as you like."""

    folder: Path
    settings: tuple[str, ...] = SPEED
    """Of the server, each NAME=VALUE."""
    password: str = field(default_factory=lambda: secrets.token_hex(8))
    process: subprocess.Popen[bytes] | None = None
    databases: int = 0
    shared: dict[str, str] = field(default_factory=dict)
    """The databases that tests share, by what is special about them."""

    def initialize(self) -> None:
        """Make the cluster. Its collation is no computer's: ``a`` comes before ``B``."""
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)
        subprocess.run(
            [
                _binary("initdb"), "--no-sync", f"--username={USER}", "--auth=scram-sha-256",
                f"--pwfile={secret}", "--encoding=UTF8", "--locale=C.UTF-8",
                "--locale-provider=icu", "--icu-locale=en-US", "-D", self.folder / "data",
            ],
            user=account(), cwd=self.folder, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = ("listen_addresses=", f"unix_socket_directories={self.folder}", *self.settings)
        self.process = subprocess.Popen(
            [_binary("postgres"), "-D", self.folder / "data", *(a for s in settings for a in ("-c", s))],
            user=account(), cwd=self.folder,
            stdout=(self.folder / "log").open("ab"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        while subprocess.run([_binary("pg_isready"), "-q", "-h", self.folder]).returncode:
            assert self.process.poll() is None, (self.folder / "log").read_text()

    def kill(self) -> None:
        """Kill the server and its sessions, as a machine that loses its power does."""
        assert self.process is not None
        sessions = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in [self.process.pid, *map(int, sessions.read_text().split())]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End the server at once."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()

    def sql(self, *statements: str, database: str = "postgres") -> None:
        """Run ``statements``, each in a transaction of its own."""
        with psycopg.connect(self.url(database), autocommit=True) as session:
            for statement in statements:
                session.execute(statement.encode())

    def url(self, database: str, *, password: str | None = None, host: Path | None = None) -> str:
        """Return the URL of a database; ``host``: of a pooler's socket instead."""
        return f"postgresql://{USER}:{password or self.password}@/{database}?host={host or self.folder}"

    def emptied(self) -> str:
        """Return the URL of the one database that tests share, as it was when it was new.

        A database has 300 files: to make one for each test takes long, and to delete it longer.
        """
        return self._emptied("")

    def clocked(self) -> str:
        """Return the URL of a database whose time `set_time` sets, as it was when it was new."""
        url = self._emptied("clocked", *CLOCK)
        set_time(url, START)
        return url

    def _emptied(self, what: str, *made_with: str) -> str:
        if what not in self.shared:
            self.shared[what] = self.database()
            name = _database(self.shared[what])
            self.sql(*(each.format(name=name) for each in made_with), database=name)
        name = _database(self.shared[what])
        self.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        self.sql(
            *(f"DELETE FROM {table}" for table in metadata.tables),
            "INSERT INTO meta (key, value) VALUES ('revision', 0), ('seen', 0)",
            *(f"ALTER SEQUENCE {table}_id_seq RESTART" for table in ("events", "requests")),
            database=name,
        )
        return self.shared[what]

    def database(self, *, migrated: bool = True) -> str:
        """Make a database, with the present schema or empty, and return its URL."""
        self.databases += 1
        name, template = f"store{self.databases}", "migrated" if migrated else "template0"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)


@contextmanager
def server(*settings: str) -> Iterator[Server]:
    """Yield a running server with a migrated database to copy; ``settings``: beside `SPEED`."""
    with folder() as place:
        found = Server(folder=place, settings=(*SPEED, *settings))
        found.initialize()
        found.start()
        try:
            found.sql("CREATE DATABASE migrated")
            Store.open(found.url("migrated"), now=lambda: 0.0).close()
            yield found
        finally:
            found.stop()


@contextmanager
def pooler(server: Server) -> Iterator[Path]:
    """Yield the socket folder of PgBouncer in transaction mode, with two sessions on the server."""
    command = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    assert command, "pgbouncer is missing: tools/apt.sh pgbouncer"
    with folder() as place:
        (place / "users").write_text(f'"{USER}" "{server.password}"\n')
        (place / "ini").write_text(
            f"[databases]\n* = host={server.folder}\n[pgbouncer]\nlisten_port = 5432\n"
            f"listen_addr =\nunix_socket_dir = {place}\nauth_type = scram-sha-256\n"
            f"auth_file = {place}/users\npool_mode = transaction\ndefault_pool_size = 2\n"
        )
        process = subprocess.Popen(
            [command, "-q", str(place / "ini")], user=account(), cwd=place,
            stdout=(place / "log").open("ab"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            while not (place / ".s.PGSQL.5432").exists():
                assert process.poll() is None, (place / "log").read_text()
            yield place
        finally:
            process.kill()
            process.wait()


def _database(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


def _binary(name: str) -> str:
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
    assert found, "PostgreSQL is missing: tools/apt.sh postgresql"
    return found[-1]
