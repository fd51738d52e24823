"""Failed attempts to run a model: how they are recorded, and how they are forgotten."""

from __future__ import annotations

import hashlib

from modelium.config import Config
from modelium.models import Model
from modelium.models.base import base_name
from modelium.policy import backoff
from modelium.stages.services import Services


def configuration_of(config: Config, name: str) -> str:
    """Return a digest of the configuration that a load of the model ``name`` depends on."""
    entry = config.models.get(base_name(name))
    sections = (entry, config.vllm, config.triton, config.ray_serve, config.llama_cpp)
    whole = hashlib.sha256()
    for section in sections:
        whole.update(b"\0" if section is None else section.model_dump_json().encode())
    return whole.hexdigest()[:16]


async def record_failure(services: Services, model: Model, error: BaseException) -> backoff.Verdict:
    """Move ``model``, whose load failed or whose engine was lost, to FAILED; return what follows.

    Its bookings and its deployment are given back in the same transaction.
    """
    if model.deployment is None:
        raise ValueError(f"{model.name} has no deployment that could have failed")
    found = backoff.after_failure(
        model,
        error,
        model.deployment.runtime,
        services.policy,
        configuration=configuration_of(services.config, model.name),
        now=services.clock.time(),
    )
    await services.store.states.fail(
        model.name,
        reason=found.reason,
        failures=found.failures,
        retry_at=found.retry_at,
        setbacks=found.setbacks,
    )
    if found.quarantined:
        await services.store.events.append(
            "model.quarantined",
            model=base_name(model.name),
            failures=found.failures,
            reason=found.reason,
        )
    return found


async def forgive(services: Services, name: str, *, why: str) -> Model:
    """Forget the failures of ``name``, so that it is tried again; raises `UnknownModel`."""
    known = await services.store.model(name)
    if known.failures == 0:
        return known
    fresh = await services.store.states.forgive(name)
    await services.store.events.append(
        "model.retry", model=base_name(name), reason=why, failures=known.failures
    )
    return fresh


async def forgive_reconfigured(services: Services) -> list[str]:
    """Forget the failures of models whose configuration has changed since; return their names."""
    _revision, models, _bookings = await services.store.view()
    changed = [
        model.name
        for model in models
        if model.failures
        and model.setbacks.configuration
        and model.setbacks.configuration != configuration_of(services.config, model.name)
    ]
    for name in changed:
        await forgive(services, name, why="its configuration has changed")
    return changed
