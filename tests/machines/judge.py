"""What of the store and the engines that run must not be, said as sentences (no I/O here)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.machines.node import MEMORY_GIB

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


class Judge:
    """Says what of the tables and the engines that run is wrong, each a sentence (no I/O)."""

    def __init__(self) -> None:
        """No planner was seen yet."""
        self._epoch = 0
        self._holders: dict[int, str] = {}
        self.failovers = 0
        """How often another service became the planner."""

    def at_once(self, tables: Tables) -> Iterator[str]:
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

    def lasting(self, tables: Tables, running: Mapping[Engine, int]) -> Iterator[str]:
        """Yield what may be for a moment, while engines start and end."""
        places = tables.places()
        for (machine, model), count in running.items():
            if count > 1:
                yield f"{machine} runs {model} {count} times"
            known = machine in places.get(model, ()) or (machine, model) in tables.strays
            if not known:
                yield f"{machine} runs {model}, which the store does not have there"

    def settled(
        self, tables: Tables, running: Mapping[Engine, int], *, ready: Sequence[str]
    ) -> Iterator[str]:
        """Yield what is not as it has to be once nothing happens; ``ready``: models that serve."""
        yield from self.at_once(tables)
        yield from self.lasting(tables, running)
        for name, model in tables.models.items():
            if model["state"] in ON_THE_WAY:
                yield f"{name} is still {model['state']} ({model['reason']})"
        for name in ready:
            found = tables.models.get(name, {"state": "not registered", "reason": ""})
            if found["state"] != "ready":
                yield f"{name} is {found['state']} after it has answered ({found['reason']})"
        wanted = {(place, name) for name, places in tables.places().items() for place in places}
        for place, name in wanted - running.keys():
            yield f"{name} is deployed on {place}, where nothing runs it"
        yield from (f"{model} is still a stray of {node}" for node, model in tables.strays)
        if tables.questions:
            yield f"{tables.questions} questions are not answered"
        if tables.open_decisions:
            yield f"{tables.open_decisions} decisions are still open"
