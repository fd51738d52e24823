"""Looks at machines from outside: the store by SQL, processes by /proc, Triton by its own API.

Its code is its own: what Modelium believes of itself is what is on trial. It looks all the time in
a thread, and once more at rest.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from tests.machines.judge import Engine, Judge, Row, Tables
from tests.machines.network import Network
from tests.machines.node import Machine
from tests.machines.servers import Postgres

LOOK_S = 1.0
"""Between two looks."""

GRACE_S = 30.0
"""For which an engine and the store may disagree: starts and stops are no instants, a killed
service is away for its lease, and a silent node is relieved at once."""

TRITON = "triton-server/run/http"
"""Where Triton answers, in the state folder of its machine."""

KEPT = ("README.md", ".modelium.lock", ".staging", ".trash", ".fetched")
"""What lies in drop zones and repositories at rest, beside models."""

SILENT_S = 15.0
"""Without a heartbeat, after which a machine is silent."""


def read(store: Postgres) -> Tables:
    """Read the tables."""
    with store.snapshot("modelium") as cursor:

        def rows(query: str) -> list[Row]:
            return cursor.execute(query.encode()).fetchall()

        now = "extract(epoch FROM clock_timestamp())"
        leases = rows("SELECT holder, epoch FROM leases WHERE name = 'planner'")
        return Tables(
            models={row["name"]: row for row in rows("SELECT name, state, reason FROM models")},
            deployments={
                row["document"]["model"]: row["document"]
                for row in rows("SELECT document FROM deployments")
            },
            bookings=tuple(rows("SELECT model, device, bytes, releasing FROM bookings")),
            strays=frozenset((r["node"], r["model"]) for r in rows("SELECT * FROM strays")),
            nodes={
                row["name"]: float(row["silent"])
                for row in rows(f"SELECT name, {now} - seen_at AS silent FROM nodes")
            },
            planner=(leases[0]["holder"], leases[0]["epoch"]) if leases else None,
            questions=rows("SELECT count(*) FROM questions WHERE answered_at IS NULL")[0]["count"],
            open_decisions=rows(
                "SELECT count(*) FROM decisions WHERE document->>'outcome' = 'accepted'"
            )[0]["count"],
        )


class Observer:
    """Keeps what it saw wrong as sentences, each once."""

    def __init__(
        self, *, network: Network, machines: Sequence[Machine], store: Postgres, triton: bool
    ) -> None:
        """``triton``: whether the machines have it."""
        self._network = network
        self._machines = {machine.name: machine for machine in machines}
        self._store = store
        self._triton = triton
        self._judge = Judge()
        self._wrong: dict[str, None] = {}
        self._since: dict[str, float] = {}
        self.looks = 0
        self._looking = threading.Lock()
        """So that no look at rest judges what was read before the last one."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)

    def __enter__(self) -> Observer:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """End it."""
        self._end.set()
        self._thread.join()

    @property
    def failovers(self) -> int:
        """How often another service became the planner."""
        return self._judge.failovers

    def seen(self) -> list[str]:
        """Return what was wrong since the last call."""
        found, self._wrong = list(self._wrong), {}
        return found

    def tables(self) -> Tables:
        """Read the store now."""
        return read(self._store)

    # --- looking --------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._end.wait(LOOK_S):
            with suppress(psutil.Error, OSError), self._looking:
                self._look()

    def _look(self) -> None:
        tables, running = self.tables(), Counter(self.engines())
        self.looks += 1
        now = time.monotonic()
        for sentence in self._judge.at_once(tables):
            self._wrong.setdefault(sentence)
        lasting = set(self._judge.lasting(tables, running))
        self._since = {sentence: self._since.get(sentence, now) for sentence in lasting}
        for sentence, since in self._since.items():
            if now - since > GRACE_S:
                self._wrong.setdefault(f"{sentence}, for more than {GRACE_S:.0f} s")

    def at_rest(self, *, ready: Sequence[str]) -> list[str]:
        """Return what is not as it has to be once nothing happens; ``ready``: models that serve."""
        with self._looking:
            tables, running = self.tables(), Counter(self.engines())
            wrong = list(self._judge.settled(tables, running, ready=ready))
        for machine in self._machines.values():
            silent = tables.nodes.get(machine.name, float("inf"))
            if machine.alive and silent > SILENT_S:
                wrong.append(f"{machine.name} runs, and is silent for {silent:.0f} s")
            wrong += _left(machine)
        return wrong

    # --- engines --------------------------------------------------------------------------------

    def engines(self) -> list[Engine]:
        """Return machine and model of each engine that runs, by the machine's processes."""
        found = []
        for name, machine in self._machines.items():
            tokens: dict[str, str] = {}
            for process in self._network.processes(name):
                with suppress(psutil.Error):
                    token = process.environ().get("MODELIUM_ENGINE")
                    model = _model(process.cmdline(), machine.seen / "repository")
                    if token and model:
                        tokens[token] = model
            found += [(name, model) for model in tokens.values()]
            if self._triton:
                found += [(name, model) for model in self._in_triton(name)]
        return found

    def _in_triton(self, machine: str) -> list[str]:
        """Return which models the Triton of ``machine`` has loaded."""
        transport = httpx.HTTPTransport(uds=str(self._machines[machine].state / TRITON))
        with suppress(httpx.TransportError, ValueError), httpx.Client(transport=transport) as http:
            rows = http.post("http://triton/v2/repository/index", json={}, timeout=2).json()
            return [r["name"].partition("@")[0] for r in rows if r.get("state") == "READY"]
        return []


def _left(machine: Machine) -> Iterator[str]:
    """Yield files on a machine that nobody needs."""
    for folder in (machine.repository / ".staging", machine.incoming):
        if folder.is_dir():
            yield from (f"{e} is left" for e in folder.iterdir() if e.name not in KEPT)
    yield from (f"{entry} is left of a transfer" for entry in _partial(machine.repository))


def _model(words: Sequence[str], repository: Path) -> str:
    """Return the model whose folder a command line names."""
    start = f"{repository}/"
    for word in words:
        if word.startswith(start) and not word.startswith(f"{start}."):
            return word.removeprefix(start).partition("/")[0]
    return ""


def _partial(repository: Path) -> Iterator[Path]:
    if repository.is_dir():
        for entry in repository.iterdir():
            if entry.name.startswith(".") and entry.name not in KEPT:
                yield from entry.iterdir() if entry.is_dir() else [entry]
