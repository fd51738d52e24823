"""Looks at machines from outside: the store by SQL, processes by /proc, Triton by its own API.

Its code is its own: what Modelium believes of itself is what is on trial. It looks all the time in
a thread, and once more at rest.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.machines.network import Network
from tests.machines.node import MEMORY_GIB, TRITON_PORT, Machine
from tests.machines.servers import Postgres

LOOK_S = 1.0
"""Between two looks."""

GRACE_S = 20.0
"""For which an engine and the store may disagree: starts and stops are no instants, a killed
service is away for its lease, and a silent node is relieved at once."""

KEPT = ("README.md", ".modelium.lock", ".staging", ".trash")
"""What lies in drop zones and repositories at rest, beside models."""

HELD = ("loading", "ready", "sleeping", "draining", "unloading")
ON_THE_WAY = ("ingested", "analyzed", "loading", "draining", "unloading")

Row = dict[str, Any]
Engine = tuple[str, str]
"""Machine and model."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What the store said in one transaction."""

    models: Mapping[str, Row]
    deployments: Mapping[str, Row]
    bookings: tuple[Row, ...]
    strays: frozenset[Engine]
    nodes: Mapping[str, float]
    """Machine → seconds since its last heartbeat."""
    planner: tuple[str, int] | None
    """Holder and epoch."""
    questions: int
    """That nobody has answered."""
    open_decisions: int

    def places(self) -> dict[str, tuple[str, ...]]:
        """Return model → machines of its deployment."""
        return {
            name: tuple(dict.fromkeys(device.partition("/")[0] for device in row["devices"]))
            for name, row in self.deployments.items()
        }


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
        self._wrong: dict[str, None] = {}
        self._since: dict[str, float] = {}
        self._epoch = 0
        self._holders: dict[int, str] = {}
        self.failovers = 0
        """How often another service became the planner."""
        self.looks = 0
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

    def seen(self) -> list[str]:
        """Return what was wrong since the last call."""
        found, self._wrong = list(self._wrong), {}
        return found

    def tables(self) -> Tables:
        """Read the store now."""
        return read(self._store)

    # --- all the time ---------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._end.wait(LOOK_S):
            with suppress(psutil.Error, OSError):
                self._look()

    def _look(self) -> None:
        tables, running = self.tables(), Counter(self.engines())
        self.looks += 1
        now = time.monotonic()
        for sentence in self._at_once(tables):
            self._wrong.setdefault(sentence)
        lasting = set(self._lasting(tables, running))
        self._since = {sentence: self._since.get(sentence, now) for sentence in lasting}
        for sentence, since in self._since.items():
            if now - since > GRACE_S:
                self._wrong.setdefault(f"{sentence}, for more than {GRACE_S:.0f} s")

    def _at_once(self, tables: Tables) -> Iterator[str]:
        """Yield what no transaction may leave, however short."""
        sums: Counter[str] = Counter()
        for booking in tables.bookings:
            sums[booking["device"]] += 0 if booking["releasing"] else booking["bytes"]
        for device, held in sums.items():
            if held > MEMORY_GIB * 2**30:
                yield f"{held / 2**30:.2f} GiB are booked on {device}, which has {MEMORY_GIB}"
        booked: defaultdict[str, set[str]] = defaultdict(set)
        for booking in tables.bookings:
            booked[booking["model"]].add(booking["device"])
        for name in booked.keys() | tables.deployments.keys():
            devices = set(tables.deployments.get(name, {}).get("devices", ()))
            if booked[name] != devices:
                yield f"{name} is deployed on {sorted(devices)}, booked on {sorted(booked[name])}"
        for name, model in tables.models.items():
            if (model["state"] in HELD) != (name in tables.deployments):
                has = "a" if name in tables.deployments else "no"
                yield f"{name} is {model['state']} and has {has} deployment"
        yield from self._planner(tables)

    def _planner(self, tables: Tables) -> Iterator[str]:
        if tables.planner is None:
            return
        holder, epoch = tables.planner
        if epoch < self._epoch:
            yield f"the planner's epoch went from {self._epoch} back to {epoch}"
        known = self._holders.setdefault(epoch, holder)
        if known != holder:
            yield f"{known} and {holder} both planned in epoch {epoch}"
        if epoch > self._epoch and self._epoch:
            self.failovers += 1
        self._epoch = max(self._epoch, epoch)

    def _lasting(self, tables: Tables, running: Mapping[Engine, int]) -> Iterator[str]:
        """Yield what may be for a moment, while engines start and end."""
        places = tables.places()
        for (machine, model), count in running.items():
            if count > 1:
                yield f"{machine} runs {model} {count} times"
            known = machine in places.get(model, ()) or (machine, model) in tables.strays
            if not known:
                yield f"{machine} runs {model}, which the store does not have there"

    # --- at rest --------------------------------------------------------------------------------

    def at_rest(self, *, ready: Sequence[str]) -> list[str]:
        """Return what is not as it has to be once nothing happens; ``ready``: models that serve."""
        return list(self._at_rest(ready))

    def _at_rest(self, ready: Sequence[str]) -> Iterator[str]:
        tables, running = self.tables(), Counter(self.engines())
        yield from self._at_once(tables)
        for name, model in tables.models.items():
            if model["state"] in ON_THE_WAY:
                yield f"{name} is still {model['state']} ({model['reason']})"
        for name in ready:
            state = tables.models.get(name, {}).get("state", "not registered")
            if state != "ready":
                why = tables.models.get(name, {}).get("reason", "")
                yield f"{name} is {state} after it has answered ({why})"
        wanted = {(place, name) for name, found in tables.places().items() for place in found}
        for place, name in wanted - running.keys():
            yield f"{name} is deployed on {place}, where nothing runs it"
        for place, name in running.keys() - wanted:
            yield f"{place} runs {name}, which is not deployed there"
        yield from self._lasting(tables, running)
        yield from (f"{model} is still a stray of {node}" for node, model in tables.strays)
        if tables.questions:
            yield f"{tables.questions} questions are not answered"
        if tables.open_decisions:
            yield f"{tables.open_decisions} decisions are still open"
        for machine in self._machines.values():
            silent = tables.nodes.get(machine.name, float("inf"))
            if machine.alive and silent > 15.0:
                yield f"{machine.name} runs, and is silent for {silent:.0f} s"
            yield from self._left(machine)

    def _left(self, machine: Machine) -> Iterator[str]:
        """Yield files and ports of a machine that nobody needs."""
        for folder in (machine.repository / ".staging", machine.incoming):
            if folder.is_dir():
                yield from (
                    f"{entry} is left" for entry in folder.iterdir() if entry.name not in KEPT
                )
        for entry in _partial(machine.repository):
            yield f"{entry} is left of a transfer"

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
        found: list[str] = []

        def ask() -> None:
            self._network.enter(machine)
            url = f"http://127.0.0.1:{TRITON_PORT}/v2/repository/index"
            request = urllib.request.Request(url, data=b"{}", method="POST")
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with suppress(OSError, ValueError), opener.open(request, timeout=2) as answer:
                found.extend(
                    row["name"].partition("@")[0]
                    for row in json.load(answer)
                    if row.get("state") == "READY"
                )

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        return found


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
