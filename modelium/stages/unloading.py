"""The call that has a runtime unload a model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from modelium.errors import ModeliumError, Unavailable
from modelium.models import Deployment, RuntimeName
from modelium.stages.services import Services

UNLOAD_S = 120.0
"""Beside the grace, for a runtime to unload a model; one that takes longer is asked again."""


CLEAR_S = 15.0
"""The same for what is lost or not wanted: the control loop waits for it."""


async def call_unload(
    services: Services, deployment: Deployment, *, grace_s: float, limit_s: float | None = None
) -> None:
    """Have the runtime unload ``deployment``; see `call_unload_of`.

    ``limit_s``: default: `UNLOAD_S`.
    """
    await call_unload_of(
        services,
        deployment.runtime,
        deployment.name,
        deployment.handle,
        grace_s=grace_s,
        limit_s=UNLOAD_S if limit_s is None else limit_s,
    )


async def call_unload_of(
    services: Services,
    runtime: RuntimeName,
    name: str,
    handle: Mapping[str, Any],
    *,
    grace_s: float,
    limit_s: float,
) -> None:
    """Have ``runtime`` unload ``name``, within a bound even where the driver keeps none.

    ``limit_s``: beside the grace.

    Raises:
        ModeliumError: the runtime does not do it.
    """
    driver = services.runtimes.get(runtime)
    if driver is None:
        raise Unavailable(f"{runtime.value} is switched off in the configuration, and holds {name}")
    bound = grace_s + limit_s
    try:
        async with asyncio.timeout(bound):
            await driver.unload(name, handle=handle, grace_s=grace_s)
    except TimeoutError as exc:
        raise ModeliumError(
            f"{runtime.value} did not unload {name} within {bound:.0f} s; it is asked again"
        ) from exc
