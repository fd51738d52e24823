"""One immutable look at everything that a decision may depend on."""

from __future__ import annotations

import asyncio
import hashlib

from modelium.models import Device, Fleet
from modelium.services import Services

HISTORY_HOURS = 24
"""A day shows when a model is usually asked."""


async def snapshot(services: Services) -> Fleet:
    """The fleet as it is now: store and devices are read, runtimes as last observed."""
    return await asyncio.to_thread(with_traffic, services, await inventory(services))


async def inventory(services: Services, *, devices: tuple[Device, ...] | None = None) -> Fleet:
    """As `snapshot`, without traffic.

    ``devices``: those of a moment ago, where nothing was done since: asking the driver for all
    of them takes longer than everything else.
    """
    reading = asyncio.to_thread(services.store.view)
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


def with_traffic(services: Services, fleet: Fleet) -> Fleet:
    """``fleet`` with the traffic of this moment; for a thread, as it copies every model."""
    traffic = services.switchboard.traffic.snapshot()
    return fleet.model_copy(
        update={
            "models": tuple(
                model.model_copy(update={"traffic": traffic[model.name]})
                if model.name in traffic
                else model
                for model in fleet.models
            )
        }
    )


async def with_history(services: Services, fleet: Fleet) -> Fleet:
    """``fleet`` with the requests of each of the last `HISTORY_HOURS`, for who has time to look."""
    return await asyncio.to_thread(_with_history, services, fleet)


def _with_history(services: Services, fleet: Fleet) -> Fleet:
    hours = services.store.history.by_hour(HISTORY_HOURS)
    return fleet.model_copy(
        update={
            "models": tuple(
                model.model_copy(
                    update={
                        "traffic": model.traffic.model_copy(update={"hours": hours[model.name]})
                    }
                )
                if model.name in hours
                else model
                for model in fleet.models
            )
        }
    )


def digest(fleet: Fleet) -> str:
    """A short name for the snapshot, so that two decisions on the same facts can be told.

    Piece by piece: one dump of everything would hold the interpreter for as long as it takes.
    """
    whole = hashlib.sha256(f"{fleet.at} {fleet.revision}".encode())
    for part in (fleet.models, fleet.devices, fleet.bookings, fleet.runtimes):
        for one in part:
            whole.update(one.model_dump_json().encode())
    return whole.hexdigest()[:16]
