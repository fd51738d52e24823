"""The call that has a runtime unload a model."""

from __future__ import annotations

import asyncio

from modelium.errors import ModeliumError, Unavailable
from modelium.models import Deployment
from modelium.stages.services import Services

UNLOAD_S = 120.0
"""Beside the grace, for a runtime to unload a model; one that takes longer is asked again."""


async def call_unload(services: Services, deployment: Deployment, *, grace_s: float) -> None:
    """Have the runtime unload it, within a bound even where the driver keeps none.

    Raises:
        ModeliumError: the runtime does not do it.
    """
    name = deployment.runtime.value
    runtime = services.runtimes.get(deployment.runtime)
    if runtime is None:
        raise Unavailable(
            f"{name} is switched off in the configuration, and holds {deployment.name}"
        )
    try:
        async with asyncio.timeout(grace_s + UNLOAD_S):
            await runtime.unload(deployment.name, handle=deployment.handle, grace_s=grace_s)
    except TimeoutError as exc:
        bound = grace_s + UNLOAD_S
        raise ModeliumError(
            f"{name} did not unload {deployment.name} within {bound:.0f} s; it is asked again"
        ) from exc
