"""Analyze: from files to a profile."""

from __future__ import annotations

import asyncio

from modelium import analysis
from modelium.errors import DropRejected, Unavailable
from modelium.lifecycle import SETTLED, ModelState
from modelium.models import EvictionCause, ModelProfile, Report
from modelium.ports import Steps
from modelium.stages import switching
from modelium.stages.engine_catalog import engines
from modelium.stages.evict import unload_plan
from modelium.stages.inline import inline_steps
from modelium.stages.local_files import local_path
from modelium.stages.newcomers import introduce
from modelium.stages.replacement import waits
from modelium.stages.services import Services


async def analyze(services: Services, *, model: str, steps: Steps = inline_steps) -> Report:
    """Find out what ``model`` is, store its profile, and have it decided on.

    Where another version is loaded, the current one is loaded beside it if both fit (see
    `modelium.stages.switching`). Else it is drained and unloaded first: requests that come in
    between wait for the current one. Where the current one could not be loaded then either, the
    loaded one serves on until it can be (`modelium.stages.replacement`). The profile of a model
    that ingest has just examined is kept; its files are inspected again.

    Raises:
        DropRejected: the files are of no known kind, or unsafe; the model is marked failed, unless
            it is loaded: then it goes on serving.
        Unavailable: the older version stays busy; it goes on serving until it idles out.
    """
    store = services.store
    try:
        profile = await steps("read headers", _profile, services, model)
    except DropRejected as exc:
        if await switching.refused(services, model, reason=str(exc)):
            raise  # the version that is loaded goes on serving
        if (await store.model(model)).state not in SETTLED:
            # It was loaded before its files changed, and they are looked at before the next load.
            await store.events.append(
                "model.unservable", model=model, reason=str(exc), rule=exc.reason
            )
            raise
        await store.states.mark_unservable(model, reason=str(exc))
        await store.events.append("model.failed", model=model, reason=str(exc), rule=exc.reason)
        raise
    if not await steps("replace the older version", _replace, services, model):
        await steps("mark as analyzed", store.states.mark_analyzed, model)
        introduce(services, model)
    supported = [s.runtime.value for s in profile.runtimes if s.supported]
    return Report(
        stage="analyze",
        outcome="analyzed",
        model=model,
        reason=f"{profile.architecture} ({profile.format.value}, {profile.task.value})",
        details={
            "weights_bytes": profile.weight_bytes,
            "parameters": profile.parameter_count,
            "runtimes": supported,
            "not_supported": {
                s.runtime.value: s.reason for s in profile.runtimes if not s.supported
            },
        },
    )


async def _profile(services: Services, model: str) -> ModelProfile:
    record = await services.store.model(model)
    fresh = record.state is ModelState.INGESTED or record.outdated
    if fresh and record.profile is not None and record.profile.digest == record.digest:
        # The profile is ingest's; the files may have been changed since.
        await asyncio.to_thread(
            analysis.inspect_files, local_path(services, record), approvals=record.approvals
        )
        return record.profile
    profile = await asyncio.to_thread(
        analysis.analyze,
        local_path(services, record),
        approvals=record.approvals,
        engines=await asyncio.to_thread(engines, services.config),
    )
    profile = profile.model_copy(update={"digest": record.digest})
    await services.store.lineage.set_profile(model, record.version, profile)
    return profile


async def _replace(services: Services, model: str) -> bool:
    """Replace the version of ``model`` that is loaded, where another one is the current one.

    Returns whether the loaded one serves on: the current one is loaded beside it, or waits. Else
    nothing is loaded any more.
    """
    record = await services.store.model(model)
    if not record.outdated or record.state not in (ModelState.READY, ModelState.SLEEPING):
        return False
    reason = f"version {record.version} replaces the one that is loaded"
    if record.state is ModelState.READY:
        apart = await switching.begin(services, record)
        if not apart or await waits(services, record):
            return True
        reason += f"; both at once: {apart}"
    # Queued: whatever becomes of this analysis, the current version is loaded in the end.
    plan = unload_plan([model], cause=EvictionCause.REPLACED, reason=reason, requeue=True)
    await services.launcher.decide(model=model, trigger=plan.trigger, plan=plan)
    if (await services.store.model(model)).state is ModelState.READY:
        raise Unavailable(f"{model}: requests are still in flight on the older version")
    return False
