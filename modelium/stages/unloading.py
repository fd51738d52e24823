"""The call that has a runtime unload a model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from modelium.errors import ModeliumError, Unavailable
from modelium.models import Deployment, Violation
from modelium.models.base import base_name
from modelium.policy import PlanRejected
from modelium.policy.cleanup_check import Cause, Cleanup, validate_cleanup
from modelium.stages import parts
from modelium.stages.locality import is_here
from modelium.stages.services import Services

UNLOAD_S = 120.0
"""Beside the grace, for a runtime to unload a model; one that takes longer is asked again."""

CLEAR_S = 15.0
"""The same for what is lost or not wanted: the control loop waits for it."""


async def call_unload(
    services: Services,
    deployment: Deployment,
    *,
    grace_s: float,
    limit_s: float | None = None,
    cause: Cause = "begun",
) -> None:
    """Have the runtime unload ``deployment``; see `call_unload_of`.

    ``limit_s``: default: `UNLOAD_S`.
    """
    limit_s = UNLOAD_S if limit_s is None else limit_s
    await call_unload_of(
        services,
        Cleanup(runtime=deployment.runtime, instance=deployment.name, cause=cause),
        deployment.handle,
        grace_s=grace_s,
        limit_s=limit_s,
    )
    if parts.is_split(deployment):
        await parts.end(services, deployment, limit_s=limit_s)


async def call_unload_of(
    services: Services,
    cleanup: Cleanup,
    handle: Mapping[str, Any],
    *,
    grace_s: float,
    limit_s: float,
) -> None:
    """Carry ``cleanup`` out, within a bound even where the driver keeps none.

    ``limit_s``: beside the grace. Every unload in a runtime passes here, and the policy first:
    whatever a caller believes, what serves stays.

    Raises:
        PlanRejected: the policy forbids it by what the store says now.
        ModeliumError: the runtime does not do it.
    """
    runtime, name = cleanup.runtime, cleanup.instance
    if refused := await violations(services, cleanup):
        await _record(services, cleanup, refused)
        raise PlanRejected(refused)
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


async def violations(services: Services, cleanup: Cleanup) -> list[Violation]:
    """Return what forbids ``cleanup`` on this node now, by the store as it is."""
    _revision, models, _bookings = await services.store.view()
    here = [model for model in models if is_here(services, model.deployment)]
    return validate_cleanup(cleanup, here, services.policy)


async def _record(services: Services, cleanup: Cleanup, refused: list[Violation]) -> None:
    """Record a refusal, but for those of models that another run has just placed."""
    if cleanup.cause != "begun":
        return
    services.telemetry.on_plan_refused(violation.rule for violation in refused)
    await services.store.events.append(
        "cleanup.refused",
        model=base_name(cleanup.instance),
        runtime=cleanup.runtime.value,
        rule=refused[0].rule,
        reason="; ".join(violation.message for violation in refused),
    )
