"""States, bookings, devices and engines against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from tests.invariants.database import Tables

HOLDING = frozenset({"loading", "ready", "sleeping", "draining", "unloading"})
"""States of a model that holds memory."""

BOUNDS_S = {"ingested": 3600.0, "loading": 4 * 3600.0, "draining": 600.0, "unloading": 600.0}
"""How long a model may be in a state that it has to leave by itself."""

Engine = tuple[str, str]
"""The runtime's name, and what the model is called there."""


def stuck(tables: Tables, *, now: float, bounds: Mapping[str, float]) -> Iterator[str]:
    """No transitional state is older than its bound."""
    for model in tables.models:
        age, bound = now - model["state_since"], bounds.get(model["state"])
        if bound is not None and age > bound:
            yield f"{model['name']} has been {model['state']} for {age:.0f} s"


def unbooked(tables: Tables) -> Iterator[str]:
    """Whoever holds memory has booked it, and nobody else has."""
    states = {model["name"]: model["state"] for model in tables.models}
    deployed = {document["model"]: document for document in tables.deployments}
    booked: dict[str, set[str]] = {}
    for booking in tables.bookings:
        booked.setdefault(booking["model"], set()).add(booking["device"])
    for name in booked.keys() | deployed.keys():
        if name not in states:
            yield f"{name} is no model, and has a deployment or memory booked"
        elif states[name] not in HOLDING:
            yield f"{name} is {states[name]}, and has a deployment or memory booked"
    for name, state in states.items():
        if state not in HOLDING:
            continue
        if name not in deployed:
            yield f"{name} is {state} without a deployment"
        elif booked.get(name, set()) != set(deployed[name]["devices"]):
            yield f"{name} is {state} on {deployed[name]['devices']}, booked {booked.get(name)}"
    for booking in tables.bookings:
        if booking["releasing"] and states.get(booking["model"]) not in ("draining", "unloading"):
            yield f"the booking of {booking['model']} is releasing while it is not on its way out"


def overbooked(tables: Tables, devices: Mapping[str, int]) -> Iterator[str]:
    """No device has more memory booked than it has; what is being released counts no more.

    ``devices``: total bytes by id.
    """
    sums: Counter[str] = Counter()
    for booking in tables.bookings:
        sums[booking["device"]] += 0 if booking["releasing"] else booking["bytes"]
    for device, held in sums.items():
        total = devices.get(device)
        if total is None:
            yield f"{held} bytes are booked on {device}, which is no device"
        elif held > total:
            yield f"{held} bytes are booked on {device}, which has {total}"


def doubled(tables: Tables, held: Iterable[Engine]) -> Iterator[str]:
    """There is one engine for each version of a model."""
    named = Counter(document["instance"] or document["model"] for document in tables.deployments)
    yield from (f"{name} is deployed {n} times" for name, n in named.items() if n > 1)
    running = Counter(held)
    for (runtime, name), n in running.items():
        if n > 1:
            yield f"{runtime} runs {name} {n} times"


def elsewhere(tables: Tables, held: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """Every ready model runs on exactly the machines that it is deployed on.

    ``held``: machine → what the models that it runs are called there.
    """
    deployed = {document["model"]: document for document in tables.deployments}
    running: dict[str, set[str]] = {}
    for machine, names in held.items():
        for name in names:
            running.setdefault(name, set()).add(machine)
    for model in tables.models:
        if model["state"] != "ready" or model["name"] not in deployed:
            continue
        document = deployed[model["name"]]
        wanted = {device.partition("/")[0] for device in document["devices"]}
        found = running.get(document["instance"] or document["model"], set())
        if found != wanted:
            yield f"{model['name']} is ready on {sorted(wanted)} and runs on {sorted(found)}"


def unsettled(tables: Tables, held: Iterable[Engine] | None) -> Iterator[str]:
    """Nothing is on its way, and what the store has loaded is what the runtimes run."""
    for model in tables.models:
        if model["state"] in BOUNDS_S:
            yield f"{model['name']} is still {model['state']}"
        if model["removal"] not in (None, "null"):
            yield f"{model['name']} is still to be removed"
    for decision in tables.decisions:
        yield f"decision {decision['id']} ({decision['plan']['reason']}) is still open"
    for intent in tables.intents:
        yield f"the request to {intent['kind']} {intent['model']} is still open"
    if held is None:
        return
    running = set(held)
    wanted = {(d["runtime"], d["instance"] or d["model"]) for d in tables.deployments}
    yield from (
        f"{runtime} runs {name}, which is not deployed" for runtime, name in running - wanted
    )
    yield from (f"{name} is deployed, and {runtime} has none" for runtime, name in wanted - running)
