"""Newcomers: registered models that are not analyzed yet, or that nobody has decided on.

Analysis follows registration, and a decision follows analysis. What ends one of them early (a
locked store, a full disk, a cancellation, a kill) leaves a newcomer that nobody is at; the control
loop starts again from where it stands.
"""

from __future__ import annotations

from collections.abc import Iterable

from modelium.intake.fetched import FetchedCopies
from modelium.lifecycle import ModelState
from modelium.models import Model, Trigger
from modelium.stages.local_files import local_path
from modelium.stages.owners import GRACE_S
from modelium.stages.services import Services


def examine(services: Services, name: str) -> None:
    """Start the analysis of a model, which has it decided on; nothing waits for it."""
    run = services.launcher.analyze(model=name)
    services.launcher.start(services.examiners.during(run, name))


def introduce(services: Services, name: str) -> None:
    """Start the decision about an analyzed model; nothing waits for it."""
    run = services.launcher.decide(model=name, trigger=Trigger.INGEST)
    services.launcher.start(services.examiners.during(run, name))


def resume(services: Services, models: Iterable[Model], *, grace_s: float = GRACE_S) -> None:
    """Start again what newcomers among ``models`` wait for, after pauses that grow.

    Args:
        services: the ports and the store.
        models: all of them, as the store has them.
        grace_s: for so long a newcomer that nobody is at is left alone.
    """
    waiting = {
        model.name: model
        for model in models
        if _waits(services, model) and is_examined_here(services, model)
    }
    now = services.clock.monotonic()
    for name in services.newcomers.due(
        waiting.values(), services.examiners, now=now, grace_s=grace_s
    ):
        if waiting[name].state is ModelState.INGESTED:
            examine(services, name)
        else:
            introduce(services, name)


def is_examined_here(services: Services, model: Model) -> bool:
    """Whether this node is the one that examines ``model``: its files are here, and no copy.

    Of a repository that several nodes share, the node that plans examines the models.
    """
    if not services.node:
        return True
    if services.config.shares_files():
        return services.store.plans
    path = local_path(services, model)
    return path.exists() and not FetchedCopies(repository=path.parent).is_copy(path.name)


def _waits(services: Services, model: Model) -> bool:
    if model.removal is not None or model.twin_of is not None:
        return False  # these have tasks of their own
    if model.state is not ModelState.ANALYZED:
        return True
    due = model.retry_at is None or model.retry_at <= services.clock.time()
    return due and services.policy.enabled
