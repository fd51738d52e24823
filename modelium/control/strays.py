"""Ends what a node still runs of models that were loaded elsewhere while it was silent."""

from __future__ import annotations

import logging

from modelium.errors import StoreUnavailable
from modelium.models import Deployment
from modelium.policy.cleanup_check import Cleanup
from modelium.stages.services import Services
from modelium.stages.unloading import CLEAR_S, call_unload_of

logger = logging.getLogger(__name__)


async def clear_strays(services: Services) -> None:
    """End what this node still runs of models that were loaded elsewhere while it was silent.

    One that does not end delays nothing else; it is ended at another tick.
    """
    for stray in await services.store.nodes.strays(services.node):
        try:
            await _clear(services, stray)
        except StoreUnavailable:
            raise
        except Exception as exc:
            logger.warning("what is left of %s could not be ended: %r", stray.name, exc)


async def _clear(services: Services, stray: Deployment) -> None:
    seen = services.runtime_monitor.observations.get(stray.runtime)
    driver = services.runtimes.get(stray.runtime)
    if driver is not None:
        if seen is None or seen.running is None:
            return  # nobody knows what it runs
        if any(one.model == stray.name for one in seen.running):
            cleanup = Cleanup(runtime=stray.runtime, instance=stray.name, cause="leftover")
            grace_s = services.config.gateway.drain_grace_seconds
            await call_unload_of(services, cleanup, stray.handle, grace_s=grace_s, limit_s=CLEAR_S)
    await services.store.nodes.cleared(services.node, stray.model)
    await services.store.events.append(
        "model.cleared",
        model=stray.model,
        node=services.node,
        reason="it was loaded elsewhere while this node was silent",
    )
