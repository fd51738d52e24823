"""One immutable look at everything that a decision may depend on."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping

from modelium.models import Device, Fleet, Traffic
from modelium.stages.services import Services

HISTORY_HOURS = 24
"""A day shows when a model is usually asked."""


async def snapshot(services: Services) -> Fleet:
    """The fleet as it is now: store and devices are read, runtimes as last observed."""
    return await with_traffic(services, await inventory(services))


async def inventory(services: Services, *, devices: tuple[Device, ...] | None = None) -> Fleet:
    """As `snapshot`, without traffic.

    ``devices``: those of a moment ago, where nothing was done since: asking the driver for all
    of them takes longer than everything else.
    """
    reading = services.store.view()
    if devices is None:
        devices, (revision, models, bookings) = await asyncio.gather(
            asyncio.to_thread(services.devices.snapshot), reading
        )
    else:
        revision, models, bookings = await reading
    return Fleet(
        at=services.clock.time(),
        revision=revision,
        devices=devices,
        models=models,
        bookings=bookings,
        runtimes=services.observer.statuses(),
    )


async def with_traffic(services: Services, fleet: Fleet) -> Fleet:
    """``fleet`` with the traffic of this moment."""
    return await asyncio.to_thread(lambda: _showing(fleet, services.switchboard.traffic.snapshot()))


async def with_history(services: Services, fleet: Fleet) -> Fleet:
    """``fleet`` with the requests of each of the last `HISTORY_HOURS`, for who has time to look."""

    hours = await services.store.history.by_hour(HISTORY_HOURS)
    seen = {m.name: m.traffic for m in fleet.models if m.name in hours}
    counted = {name: t.model_copy(update={"hours": hours[name]}) for name, t in seen.items()}
    return await asyncio.to_thread(_showing, fleet, counted)


def _showing(fleet: Fleet, traffic: Mapping[str, Traffic]) -> Fleet:
    """``fleet`` with ``traffic``, by model, where it has any; copies those models."""
    models = tuple(
        model.model_copy(update={"traffic": traffic[model.name]})
        if model.name in traffic
        else model
        for model in fleet.models
    )
    return fleet.model_copy(update={"models": models})


def digest(fleet: Fleet) -> str:
    """A short name for the snapshot, so that two decisions on the same facts can be told.

    Piece by piece: one dump of everything would hold the interpreter for as long as it takes.
    """
    whole = hashlib.sha256(f"{fleet.at} {fleet.revision}".encode())
    for part in (fleet.models, fleet.devices, fleet.bookings, fleet.runtimes):
        for one in part:
            whole.update(one.model_dump_json().encode())
    return whole.hexdigest()[:16]
