"""The call that has a runtime unload a model."""

from __future__ import annotations

import asyncio

from modelium.errors import ModeliumError, Unavailable
from modelium.models import Deployment, RuntimeName, Violation
from modelium.models.base import base_name
from modelium.policy import PlanRejected
from modelium.policy.cleanup_check import Cleanup, validate_cleanup
from modelium.stages.services import Services

UNLOAD_S = 120.0
"""Beside the grace, for a runtime to unload a model; one that takes longer is asked again."""


async def violations(services: Services, cleanup: Cleanup) -> list[Violation]:
    """Return what forbids ``cleanup`` now, by the store as it is."""
    _revision, models, _bookings = await services.store.view()
    return validate_cleanup(cleanup, models, services.policy)


async def call_unload(services: Services, deployment: Deployment, *, grace_s: float) -> None:
    """Have the runtime unload it, within a bound even where the driver keeps none.

    The store has the model in transition by now: whatever a caller believes, what serves stays.

    Raises:
        PlanRejected: it serves; the refusal is recorded.
        ModeliumError: the runtime does not do it.
    """
    await _allow(services, deployment.runtime, deployment.name)
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


async def _allow(services: Services, runtime: RuntimeName, instance: str) -> None:
    found = await violations(services, Cleanup(runtime=runtime, instance=instance, cause="begun"))
    if not found:
        return
    services.telemetry.on_plan_refused(violation.rule for violation in found)
    await services.store.events.append(
        "cleanup.refused",
        model=base_name(instance),
        runtime=runtime.value,
        rule=found[0].rule,
        reason="; ".join(violation.message for violation in found),
    )
    raise PlanRejected(found)
