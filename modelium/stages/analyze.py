"""Analyze: from files to a profile."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelium import analysis
from modelium.errors import DropRejected, Unavailable
from modelium.lifecycle import SETTLED, ModelState
from modelium.models import ModelProfile, Report, Trigger
from modelium.ports import Steps
from modelium.stages.engine_catalog import engines
from modelium.stages.inline import direct
from modelium.stages.services import Services


async def analyze(services: Services, *, model: str, steps: Steps = direct) -> Report:
    """Find out what ``model`` is, keep its profile, and have it decided on.

    Where an older version is loaded it is drained and unloaded first: requests that come in
    between wait for the new one.

    Raises:
        DropRejected: the files are of no known kind, or unsafe; the model is marked failed.
        Unavailable: the older version stays busy; it goes on serving until it idles out.
    """
    try:
        profile = await steps("read headers", _profile, services, model)
    except DropRejected as exc:
        await asyncio.to_thread(
            services.store.transition, model, ModelState.FAILED, reason=str(exc)
        )
        await asyncio.to_thread(
            services.store.event, "model.failed", model=model, reason=str(exc), rule=exc.reason
        )
        raise
    await steps("keep the profile", _keep, services, model, profile)
    await steps("take the older version out", _replace, services, model)
    await steps("mark as analyzed", _mark, services, model)
    services.launcher.start(services.launcher.decide(model=model, trigger=Trigger.INGEST))
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
    record = await asyncio.to_thread(services.store.model, model)
    profile = await asyncio.to_thread(
        analysis.analyze,
        Path(record.path),
        approvals=record.approvals,
        engines=await asyncio.to_thread(engines, services.config),
    )
    return profile.model_copy(update={"digest": record.digest})


async def _keep(services: Services, model: str, profile: ModelProfile) -> None:
    record = await asyncio.to_thread(services.store.model, model)
    await asyncio.to_thread(services.store.set_profile, model, record.version, profile)


async def _replace(services: Services, model: str) -> None:
    record = await asyncio.to_thread(services.store.model, model)
    if not record.outdated or record.state not in (ModelState.READY, ModelState.SLEEPING):
        return
    reason = f"version {record.version} replaces the one that is loaded"
    report = await services.launcher.evict(models=[model], reason=reason)
    if report.outcome == "busy":
        raise Unavailable(f"{model}: requests are still in flight on the older version")


async def _mark(services: Services, model: str) -> None:
    record = await asyncio.to_thread(services.store.model, model)
    if record.state in SETTLED and record.state is not ModelState.ANALYZED:
        if record.state is not ModelState.INGESTED:
            await asyncio.to_thread(services.store.transition, model, ModelState.INGESTED)
        await asyncio.to_thread(services.store.transition, model, ModelState.ANALYZED)
