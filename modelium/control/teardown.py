"""Teardown of what outlives the service by design: engines, servers, clusters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from modelium.errors import ModeliumError
from modelium.lifecycle import SETTLED, ModelState
from modelium.models import Deployment, Model
from modelium.ports import Runtime
from modelium.store import AsyncStore

REASON = "unloaded by `modelium down`"


async def end(
    *, store: AsyncStore, runtimes: Iterable[Runtime], node: str, grace_s: float
) -> list[str]:
    """Stop all models and servers of ours on ``node``; return the models that were loaded.

    Models of runtimes that are not given keep their state. Queued models stay queued for the next
    start. ``grace_s``: for requests in flight.

    Raises:
        ModeliumError: a runtime could not be stopped; the store is not changed then, so that the
            next start finds what is left.
    """
    ended = {runtime.name: runtime for runtime in runtimes}
    outcomes = await asyncio.gather(
        *(runtime.end(grace_s=grace_s) for runtime in ended.values()), return_exceptions=True
    )
    failures = [outcome for outcome in outcomes if outcome is not None]
    if failures:
        raise failures[0] if len(failures) == 1 else ModeliumError("; ".join(map(str, failures)))
    _revision, models, _bookings = await store.view()
    held = [
        model
        for model in models
        if model.state not in SETTLED
        and model.deployment
        and model.deployment.runtime in ended
        and _is_on(node, model.deployment)
    ]
    for part in await store.parts.on(node):
        await store.parts.ended(part)  # the node that answers for it sees that
    for model in held:
        await _release(store, model)
    return [model.name for model in held]


def _is_on(node: str, deployment: Deployment) -> bool:
    """Whether ``node`` answers for ``deployment``."""
    return any(device.startswith(f"{node}/") for device in deployment.devices[:1])


async def _release(store: AsyncStore, model: Model) -> None:
    if model.state in (ModelState.READY, ModelState.SLEEPING, ModelState.DRAINING):
        await store.states.start_unloading(model.name, reason=REASON)
    await store.states.release(model.name, reason=REASON, evicted=False)
