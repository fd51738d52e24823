"""The good end of a load: the model is ready, and open for requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from modelium.errors import ModeliumError
from modelium.lifecycle import ModelState
from modelium.models import Deployment, LoadSettings, Model, Preference, Report
from modelium.ports import Loaded
from modelium.stages import switching
from modelium.stages.locality import is_here
from modelium.stages.newcomers import examine
from modelium.stages.opening import open_model
from modelium.stages.services import Services
from modelium.stages.setups import attempt


async def finish(
    services: Services, model: str, decision: str | None, loaded: Loaded, *, seconds: float
) -> Report:
    """LOADING → READY, and open for requests; what is only for the record comes last.

    Args:
        services: the ports and the store.
        model: its name.
        decision: that the load carries out; ``None``: not known any more.
        loaded: what the runtime has.
        seconds: that the load took.
    """
    record = await services.store.model(model)
    if record.deployment is None or not is_here(services, record.deployment):
        raise ModeliumError(
            f"{model} has no deployment here any more; it was changed while it was loading"
        )
    if record.state is ModelState.READY:
        return load_report(record, "ready", record.reason)
    reduced = loaded.settings and _reduction(record.deployment.settings, loaded.settings)
    deployment = record.deployment.model_copy(
        update={
            "settings": loaded.settings or record.deployment.settings,
            "upstream": loaded.upstream,
            "handle": loaded.handle,
            "ready_at": services.clock.time(),
            "load_s": seconds,
        }
    )
    record = await services.store.states.mark_ready(
        model,
        deployment,
        note=f"with {reduced}, as more did not start" if reduced else "",
        preference=_kept(record, deployment) if reduced else None,
    )
    open_model(services, record, deployment)
    services.telemetry.on_load_finished(deployment.runtime, seconds=seconds, outcome="ready")
    if decision is not None:
        await services.store.decisions.finish(decision, outcome="done")
    await services.store.events.append(
        "model.ready",
        model=record.twin_of or model,
        version=deployment.version,
        **attempt(services, deployment.runtime),
        devices=await _labels(services, deployment.devices),
        load_s=round(seconds, 3),
        **({"reduced": reduced} if reduced else {}),
    )
    if record.twin_of is not None:
        await switching.complete(services, record)
    elif record.outdated:  # a newer version was registered while this one was loading
        examine(services, model)
    return load_report(record, "ready", record.reason)


def _reduction(planned: LoadSettings, effective: LoadSettings) -> str:
    """Return what the driver changed in the ``planned`` settings, as text."""
    names = [
        name
        for name in ("max_model_len", "max_num_seqs", "kv_cache_bytes")
        if getattr(planned, name) != getattr(effective, name)
    ]
    return ", ".join(f"{name} {getattr(effective, name)}" for name in names)


def _kept(record: Model, deployment: Deployment) -> Preference:
    """Return the preference that starts the next load from what worked."""
    settings = LoadSettings()
    if record.preference and record.preference.runtime in (None, deployment.runtime):
        settings = record.preference.settings
    worked = {
        name: getattr(deployment.settings, name) for name in ("max_model_len", "max_num_seqs")
    }
    return Preference(runtime=deployment.runtime, settings=settings.model_copy(update=worked))


async def _labels(services: Services, ids: Sequence[str]) -> list[str]:
    devices = await asyncio.to_thread(services.devices.snapshot)
    return [device.label for device in devices if device.id in ids]


def load_report(record: Model, outcome: str, reason: str) -> Report:
    """Return how a load of ``record`` ended, for people."""
    deployment = record.deployment
    return Report(
        stage="load",
        outcome=outcome,
        model=record.name,
        runtime=deployment.runtime if deployment else None,
        devices=deployment.devices if deployment else (),
        reason=reason,
        details={"load_s": deployment.load_s} if deployment else {},
    )
