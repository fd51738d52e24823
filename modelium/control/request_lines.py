"""Writes the buffered lines of the request log to the store."""

from __future__ import annotations

from modelium.stages.services import Services


async def store_lines(services: Services) -> None:
    """Store the lines that are buffered; where that fails, they stay buffered and it raises."""
    lines = services.requests.take()
    try:
        await services.store.history.log(lines)
    except BaseException:
        services.requests.restore(lines)
        raise
