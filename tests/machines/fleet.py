"""The machines, what they share, the clients and the observer: what scenarios happen to."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tests.fakes import tiny_bert_gguf
from tests.machines import servers
from tests.machines.client import Clients, Model
from tests.machines.network import Network, network
from tests.machines.node import Machine
from tests.machines.observer import Observer
from tests.samples import tiny_onnx

NAMES = ("one", "two", "three")
TOKEN = "the-token-of-all-gateways-here"
UP_S = 180.0
"""For a service to answer, on a machine that has much else to do."""

HEARD_S = 10.0
"""Since its last heartbeat, a machine that is there is heard of."""

LOADED_S = 180.0
"""For a drop to serve."""

POLL_S = 0.2

T = TypeVar("T")


class Fleet:
    """Machines that share a store. Use `fleet`."""

    def __init__(
        self,
        *,
        folder: Path,
        network: Network,
        store: servers.Postgres,
        prefect: str | None,
        triton: bool,
    ) -> None:
        """``prefect``: the API's URL; ``triton``: whether the machines have it."""
        settings = {"prefect": {"enabled": True, "api_url": prefect}} if prefect else {}
        self.folder, self.network, self.store, self.triton = folder, network, store, triton
        self.machines = {
            name: Machine(
                name,
                network=network,
                folder=folder / name,
                store=store.address("modelium"),
                token=TOKEN,
                settings=settings,
                triton=triton,
            )
            for name in network.machines
        }
        gateways = {name: machine.url for name, machine in self.machines.items()}
        self.clients = Clients(network=network, gateways=gateways, token=TOKEN)
        self.observer = Observer(
            network=network, machines=tuple(self.machines.values()), store=store, triton=triton
        )
        self._drops = 0

    # --- machines -------------------------------------------------------------------------------

    def join(self) -> None:
        """Start all services; those after the first join with a token each."""
        first, *others = self.machines.values()
        first.start()
        self.up(first)
        for machine in others:
            machine.start(join_token=self.join_token(first))
        for machine in others:
            self.up(machine)

    def join_token(self, machine: Machine) -> str:
        """Return a new token for one machine, made by ``machine``."""
        status, answer = self.clients.send("POST", machine.name, "/api/v1/nodes/token")
        assert status == 201, f"a token to join was answered with {status}: {answer}"
        return str(answer["token"])

    def up(self, machine: Machine) -> None:
        """Wait until a machine answers and its heartbeat is in the store."""

        def answers() -> bool:
            assert machine.alive, f"{machine.name} ended:\n{machine.log()}"
            if self.clients.send("GET", machine.name, "/api/v1/status")[0] != 200:
                return False
            return self.observer.tables().nodes.get(machine.name, 60.0) < HEARD_S

        self.until(answers, what=f"{machine.name} is up", within_s=UP_S)

    def planner(self) -> Machine:
        """Return the machine that plans, by what the lease says of its holder."""

        def found() -> Machine | None:
            lease = self.observer.tables().planner
            holder = lease[0] if lease else ""
            words = holder.replace(",", " ").split()
            for machine in self.machines.values():
                if machine.pid and (machine.name in words or str(machine.pid) in words):
                    return machine
            return None

        return self.until(found, what="a machine plans", within_s=30.0)

    def other(self, rng: random.Random) -> Machine:
        """Return a machine that does not plan; one with models before others."""
        planner = self.planner()
        others = [machine for machine in self.machines.values() if machine is not planner]
        rng.shuffle(others)
        return max(others, key=lambda machine: len(self.on(machine)))

    def on(self, machine: Machine) -> frozenset[str]:
        """Return the models that the store has on ``machine``."""
        places = self.observer.tables().places()
        return frozenset(name for name, found in places.items() if machine.name in found)

    # --- models ---------------------------------------------------------------------------------

    def drop(self, machine: Machine, *, onnx: bool = False) -> Model:
        """Drop a model of its own content on ``machine``."""
        self._drops += 1
        weight = float(self._drops) if onnx else None
        model = Model(name=f"{'onnx' if onnx else 'bert'}{self._drops}", weight=weight)
        aside = self.folder / "aside" / model.name
        if weight is None:
            tiny_bert_gguf.write(aside)
            (aside / "README.md").write_text(model.name)
        else:
            tiny_onnx(aside, weight=weight)
        aside.rename(machine.incoming / model.name)
        return model

    def served(self, *models: Model) -> None:
        """Wait until ``models`` are ready, and ask them from now on."""
        for model in models:
            ready = partial(self._is_ready, model.name)
            self.until(ready, what=f"{model.name} is ready", within_s=LOADED_S)
            self.clients.models.append(model)

    def _is_ready(self, model: str) -> bool:
        return self.state(model) == "ready"

    def state(self, model: str) -> str:
        """Return the state that the store has of ``model``; empty: not registered."""
        return str(self.observer.tables().models.get(model, {}).get("state", ""))

    # --- waiting --------------------------------------------------------------------------------

    def until(self, holds: Callable[[], T | None], *, what: str, within_s: float) -> T:
        """Wait until something is true, and return it; fail with the services' logs."""
        deadline = time.monotonic() + within_s
        while not (found := holds()):
            assert time.monotonic() < deadline, f"not in {within_s:.0f} s: {what}\n{self.shown()}"
            time.sleep(POLL_S)
        return found

    def shown(self) -> str:
        """Return what the store says."""
        tables = self.observer.tables()
        lines = [f"planner {tables.planner}, nodes {dict(tables.nodes)}, strays {tables.strays}"]
        places: dict[str, Any] = dict(tables.places())
        lines += [
            f"{name}: {model['state']} on {places.get(name, '-')} ({model['reason']})"
            for name, model in tables.models.items()
        ]
        return "\n".join(lines)

    def keep(self) -> Path:
        """Copy logs and configurations to a folder that stays, and return it."""
        kept = Path(tempfile.mkdtemp(prefix="modelium-machines-kept-"))
        for machine in self.machines.values():
            for file in [*machine.folder.glob("*.log"), *machine.state.rglob("*.log*")]:
                target = kept / file.relative_to(self.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                with suppress(OSError):
                    shutil.copy(file, target)
        (kept / "store.txt").write_text(self.shown())
        return kept

    def remains(self) -> list[str]:
        """Stop everything; return which processes, records and ports are left."""
        left: list[str] = []

        def down(machine: Machine) -> None:
            try:
                machine.down()
            except (AssertionError, OSError, ValueError) as error:
                left.append(f"modelium down on {machine.name}: {error}")

        with ThreadPoolExecutor() as pool:
            list(pool.map(down, self.machines.values()))
        for name in self.machines:
            for process in self.network.processes(name):
                left.append(f"process {process.pid} is left on {name}: {process.cmdline()[:8]}")
        for machine in self.machines.values():
            records = [machine.state / "endpoints.json", *machine.state.glob("*/*.json")]
            left += [f"{record} is left" for record in records if record.exists()]
        left += [
            f"{row['bytes']} bytes of {row['model']} are booked on {row['device']}"
            for row in self.observer.tables().bookings
        ]
        return left


@contextmanager
def fleet(
    *, names: Sequence[str] = NAMES, triton: bool, prefect: bool, folder: Path | None = None
) -> Iterator[Fleet]:
    """Yield machines whose services have joined; nothing of them is left after."""
    with ExitStack() as stack:
        own = folder or Path(tempfile.mkdtemp(prefix="modelium-machines-"))
        stack.callback(shutil.rmtree, own, ignore_errors=True)
        (own / "aside").mkdir()
        cables = stack.enter_context(network(names))
        store = stack.enter_context(servers.postgres(cables))
        api = stack.enter_context(servers.prefect(cables, own / "prefect")) if prefect else None
        found = Fleet(folder=own, network=cables, store=store, prefect=api, triton=triton)
        found.join()
        stack.enter_context(found.observer)
        yield found
