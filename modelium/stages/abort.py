"""Abort: an operator ends a load that is in progress."""

from __future__ import annotations

from modelium.errors import Unavailable
from modelium.lifecycle import ModelState
from modelium.policy import PlanRejected
from modelium.stages.locality import is_here
from modelium.stages.services import Services
from modelium.stages.unloading import call_unload

REASON = "an operator aborted the load"


async def abort(services: Services, model: str) -> None:
    """End the load of ``model``: nothing of it runs afterwards, and its memory is free.

    It counts as no failure. A load that has become ready meanwhile stays.

    Raises:
        ModeliumError: its runtime does not end it; it is UNLOADING then, its memory is still
            booked, and the control loop goes on.
    """
    await services.loads.abort(model)
    record = await services.store.model(model)
    if record.state is ModelState.LOADING and not is_here(services, record.deployment):
        # Its node ends the load when it sees this.
        await services.store.states.order_unloading(model, reason=REASON)
    elif record.state is ModelState.LOADING:  # its evictions are under way, or nobody is at it
        with services.owners.of(model):
            try:
                await cancelled(services, model, reason=REASON)
            except PlanRejected:
                return  # it became ready a moment ago, and stays
            await services.store.events.append(
                "model.aborted",
                model=record.twin_of or model,
                version=record.version,
                reason=REASON,
            )
    elif record.state is ModelState.UNLOADING:
        raise Unavailable(
            f"the runtime has not ended the load of {model} yet: its memory stays booked, and that "
            "is tried again"
        )


async def cancelled(services: Services, model: str, *, reason: str) -> None:
    """LOADING → UNLOADED, once the runtime has nothing of it any more.

    Raises:
        ModeliumError: the runtime does not end it; the model is UNLOADING then.
    """
    deployment = (await services.store.model(model)).deployment
    if deployment is not None and deployment.runtime in services.runtimes:
        try:
            await call_unload(services, deployment, grace_s=0.0)
        except PlanRejected:
            raise  # it became ready a moment ago, and serves
        except Exception:
            await services.store.states.start_unloading(model, reason=reason)
            raise
    await services.store.states.cancel_load(model, reason=reason)
