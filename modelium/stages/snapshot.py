"""Immutable snapshots of everything that a decision may depend on."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping

from modelium.models import Device, Fleet, Node, Traffic
from modelium.policy.departures import REMEMBERED_S
from modelium.stages.reported import Copies, all_devices, all_runtimes, held_files
from modelium.stages.services import Services
from modelium.stages.setups import class_failures, of_teams
from modelium.traffic.merged import merged

HISTORY_HOURS = 24
"""A day shows at which hours a model is used."""


async def snapshot(services: Services) -> Fleet:
    """Return the fleet now: store and devices are read, runtimes are as last observed."""
    return await with_traffic(services, await inventory(services))


async def inventory(services: Services, *, devices: tuple[Device, ...] | None = None) -> Fleet:
    """Return the fleet without traffic.

    ``devices``: read a moment ago, where nothing was changed since: querying the driver takes
    longer than everything else.
    """
    used = await services.store.team_usage.of_the_last_day() if services.policy.teams else {}
    reading = services.store.view(), class_failures(services)
    if devices is None:
        devices, (revision, models, bookings), failures = await asyncio.gather(
            asyncio.to_thread(services.devices.snapshot), *reading
        )
    else:
        (revision, models, bookings), failures = await asyncio.gather(*reading)
    now = services.clock.time()
    nodes, copies = await _nodes(services)
    # Read after the revision: a departure that is missing would leave its budget unspent. Those of
    # a kind without a budget do not count.
    allowed = services.policy.departures
    found = await services.store.departures.since(now - REMEMBERED_S) if allowed else ()
    return Fleet(
        at=now,
        revision=revision,
        devices=all_devices(devices or (), nodes, here=services.node),
        models=models,
        bookings=bookings,
        runtimes=all_runtimes(services.runtime_monitor.statuses(), nodes, here=services.node),
        nodes=nodes,
        files=held_files(models, copies),
        used=used,
        class_failures=of_teams(failures, models),
        departures=tuple(one for one in found if one.kind in allowed),
    )


async def _nodes(services: Services) -> tuple[tuple[Node, ...], Copies]:
    """Return all nodes, and which have the files of what; nothing where there is one."""
    table = services.store.nodes
    return await asyncio.gather(table.all(), table.copies()) if services.node else ((), {})


async def with_traffic(services: Services, fleet: Fleet) -> Fleet:
    """Return ``fleet`` with the current traffic, of other nodes as they stored it last."""
    elsewhere = await services.store.history.elsewhere() if services.node else {}

    def seen() -> Fleet:
        here = services.switchboard.traffic.snapshot()
        both = {name: merged((here[name], *elsewhere.get(name, ()))) for name in here}
        others = {name: merged(parts) for name, parts in elsewhere.items() if name not in here}
        return _with(fleet, {**both, **others})

    return await asyncio.to_thread(seen)


async def with_history(services: Services, fleet: Fleet) -> Fleet:
    """Return ``fleet`` with the requests of each of the last `HISTORY_HOURS`. Slower."""
    hours = await services.store.history.by_hour(HISTORY_HOURS)
    seen = {m.name: m.traffic for m in fleet.models if m.name in hours}
    counted = {name: t.model_copy(update={"hours": hours[name]}) for name, t in seen.items()}
    return await asyncio.to_thread(_with, fleet, counted)


def _with(fleet: Fleet, traffic: Mapping[str, Traffic]) -> Fleet:
    """Return ``fleet`` with ``traffic`` by model, where there is any; copies those models."""
    models = tuple(
        model.model_copy(update={"traffic": traffic[model.name]})
        if model.name in traffic
        else model
        for model in fleet.models
    )
    return fleet.model_copy(update={"models": models})


def digest(fleet: Fleet) -> str:
    """Return a short digest, by which decisions on the same snapshot are recognised.

    It is computed piece by piece: one dump of everything would hold the GIL for its whole time.
    """
    whole = hashlib.sha256(f"{fleet.at} {fleet.revision}".encode())
    if fleet.used:
        whole.update(json.dumps(fleet.used, sort_keys=True).encode())
    for part in (
        fleet.models,
        fleet.devices,
        fleet.bookings,
        fleet.runtimes,
        fleet.departures,
    ):
        for one in part:
            whole.update(one.model_dump_json().encode())
    return whole.hexdigest()[:16]
