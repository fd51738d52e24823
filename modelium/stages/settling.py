"""Settling: a model in transition that no task is at is driven on, or back.

The control loop looks for such models at every tick, and the start of the service does. What holds
after each attempt: either the model is in a state of rest and its bookings follow it, or it is
tried again after a pause.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from typing import Any

from modelium.errors import Unavailable
from modelium.lifecycle import IN_TRANSITION, ModelState
from modelium.models import Decision, Deployment, Model, Report, Unload
from modelium.ports import Loaded, Running
from modelium.stages.evict import released, unload
from modelium.stages.locality import is_here
from modelium.stages.owners import GRACE_S
from modelium.stages.ready import finish
from modelium.stages.runtime_monitor import handles
from modelium.stages.services import Services
from modelium.stages.unloading import call_unload

logger = logging.getLogger(__name__)

OPEN = frozenset({"accepted", "failed"})
"""Outcomes of decisions that have been booked, and did not come to their end."""

DECISIONS_READ = 5
"""Newest decisions about a model among which the one that has begun its transition is found."""


async def converge(
    services: Services,
    models: Iterable[Model],
    *,
    why: str = "its run ended",
    grace_s: float = GRACE_S,
) -> None:
    """Start to `settle` each orphan among ``models`` that is due; nothing waits for it.

    Args:
        services: the ports and the store.
        models: all of them, as the store has them.
        why: what made orphans of them, for the record.
        grace_s: for so long a new orphan is left alone.
    """
    now = services.clock.monotonic()
    models = [model for model in models if is_here(services, model.deployment)]
    for name in services.orphans.due(models, services.owners, now=now, grace_s=grace_s):
        services.launcher.start(services.owners.during(_Settling(services, name, why), name))


class _Settling:
    """One attempt to settle one model."""

    def __init__(self, services: Services, name: str, why: str) -> None:
        self._services, self._name, self._why = services, name, why

    def __await__(self) -> Generator[Any, None, Report]:
        return self._run().__await__()

    def __str__(self) -> str:
        return f"settle {self._name}"

    async def _run(self) -> Report:
        services, name = self._services, self._name
        await settle(services, name, why=self._why, insist=services.orphans.attempts(name) > 1)
        return Report(stage="evict", outcome="settled", model=name, reason=self._why)


async def settle(services: Services, name: str, *, why: str, insist: bool = False) -> None:
    """Drive one model on or back.

    A load whose runtime has the model ready is opened; any other is undone and queued again. An
    eviction goes on.

    Args:
        services: the ports and the store.
        name: of the model.
        why: what interrupted it, for the record.
        insist: it was tried before, so that a healthy runtime is believed that does not list the
            model, even where it fails to unload it.

    Raises:
        ModeliumError: its runtime does not do what is asked; its memory stays booked.
    """
    with services.owners.of(name):
        model = await services.store.find(name)
        if model is None or model.state not in IN_TRANSITION:
            return
        deployment = model.deployment
        if not is_here(services, deployment):
            return
        if deployment is None or deployment.runtime not in services.runtimes:
            await _leave(services, model, reason=_unmanaged(deployment))
        elif model.state is ModelState.LOADING:
            await _settle_load(services, model, deployment, why, insist=insist)
        else:
            await _settle_unload(services, model, deployment, insist=insist)


def _unmanaged(deployment: Deployment | None) -> str:
    if deployment is None:
        return "nothing of it is loaded"
    runtime = deployment.runtime.value
    return f"{runtime} is switched off in the configuration, so nothing of it is managed there"


async def _settle_load(
    services: Services, model: Model, deployment: Deployment, why: str, *, insist: bool
) -> None:
    found, decision = None, await transition_of(services, model)
    try:
        found = await _look(services, deployment)
    except Unavailable as exc:
        logger.info("what is loaded of %s is not known: %s", model.name, exc)
    wanted = model.removal is None and not model.outdated
    if found is not None and found.state == "ready" and found.upstream is not None and wanted:
        await finish(
            services,
            model.name,
            decision.id if decision else None,
            Loaded(upstream=found.upstream, handle=found.handle),
            seconds=max(0.0, services.clock.time() - deployment.started_at),
        )
        return
    try:
        await call_unload(services, deployment, grace_s=0.0)
    except Exception as exc:
        await _believe(services, deployment, exc, insist=insist)
    reason = f"{why} while loading"
    await _leave(services, model, reason=reason)
    if decision is not None:
        await services.store.decisions.abandon(decision.id, detail=reason)


async def _settle_unload(
    services: Services, model: Model, deployment: Deployment, *, insist: bool
) -> None:
    decision = await transition_of(services, model)
    unloads = decision.plan.unloads if decision else ()
    action = next((one for one in unloads if one.model == model.name), None)
    action = action or Unload(model=model.name, reason=model.reason)
    busy = False
    try:
        busy = await unload(services, action) == "busy"
    except Exception as exc:
        await _believe(services, deployment, exc, insist=insist)
        await _leave(services, model, reason=model.reason, action=action)
    if decision is not None and busy:
        detail = f"still busy: {model.name}"
        await services.store.decisions.finish(decision.id, outcome="failed", detail=detail)
    elif decision is not None and not decision.plan.loads:  # else the last load finishes it
        await services.store.decisions.finish(decision.id, outcome="done")


async def _believe(
    services: Services, deployment: Deployment, failure: Exception, *, insist: bool
) -> None:
    """Return where a healthy runtime says that it does not hold ``deployment``; else raise."""
    if not insist or await _look(services, deployment) is not None:
        raise failure
    logger.info("%s was not unloaded, and is gone: %s", deployment.name, failure)


async def _look(services: Services, deployment: Deployment) -> Running | None:
    """Return what its runtime says about ``deployment``; ``None``: it does not hold it.

    Raises:
        Unavailable: the runtime is not healthy, or does not answer.
    """
    runtime = deployment.runtime
    _revision, models, _bookings = await services.store.view()
    seen = await services.runtime_monitor.look(runtime, handles(models).get(runtime, {}))
    if seen.running is None:
        detail = seen.status.detail or "it does not answer"
        raise Unavailable(f"{runtime.value} is not healthy: {detail}")
    return next((running for running in seen.running if running.model == deployment.name), None)


async def _leave(
    services: Services, model: Model, *, reason: str, action: Unload | None = None
) -> None:
    """Note that nothing of ``model`` is held any more; ``action``: the eviction that this ends."""
    record = await services.store.find(model.name)  # another run may have ended it meanwhile
    if record is None or record.state not in IN_TRANSITION:
        return
    services.switchboard.close(model.name)
    if record.state is ModelState.LOADING:
        await services.store.states.requeue(model.name, reason=reason)
        return
    if record.state is ModelState.DRAINING:
        await services.store.states.start_unloading(model.name, reason=reason)
    action = action or Unload(model=model.name, reason=reason)
    await released(services, record.model_copy(update={"reason": reason}), action)


async def transition_of(services: Services, model: Model) -> Decision | None:
    """Return the decision that has taken ``model`` into its transition, where it is found."""
    name = model.name
    for decision in await services.store.decisions.newest(model=name, limit=DECISIONS_READ):
        plan = decision.plan
        actions = plan.loads if model.state is ModelState.LOADING else plan.unloads
        if decision.outcome in OPEN and any(action.model == name for action in actions):
            return decision
    return None
