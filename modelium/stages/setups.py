"""What each runtime is now, and how a load in it is recorded: the evidence of later decisions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from modelium.config import Config
from modelium.errors import FailureKind
from modelium.models import Model, RuntimeName
from modelium.models.outcomes import ClassFailures
from modelium.outcomes.attempts import Setup
from modelium.stages.services import Services

PASSING = "passing"
"""The ``kind`` of a failure that says nothing of the model, such as a full disk."""


def setups(services: Services) -> dict[RuntimeName, Setup]:
    """Return runtime → its configuration and its engine's version, for all runtimes."""
    engines = {s.name: s.version for s in services.runtime_monitor.statuses()}
    return {
        name: Setup(settings=_digest(services.config, name), engine=engines.get(name) or "")
        for name in RuntimeName
    }


def attempt(services: Services, runtime: RuntimeName) -> dict[str, Any]:
    """Return what the event of a load in ``runtime`` says of it."""
    return {"runtime": runtime.value, "setup": setups(services)[runtime].detail()}


def failed_attempt(
    services: Services, runtime: RuntimeName, kind: FailureKind | None
) -> dict[str, Any]:
    """Return what the event of a failed load says of it; ``None``: a passing fault."""
    return {"kind": PASSING if kind is None else kind.value, **attempt(services, runtime)}


async def class_failures(services: Services) -> tuple[ClassFailures, ...]:
    """Return which classes of models failed lately, as far as the policy asks for it."""
    policy = services.policy
    if not policy.avoid_runtime_after:
        return ()
    since = services.clock.time() - policy.avoid_runtime_s
    return await services.store.outcomes.class_failures(since=since, setups=setups(services))


def of_teams(
    failures: Iterable[ClassFailures], models: Iterable[Model]
) -> tuple[ClassFailures, ...]:
    """Return ``failures`` with the teams of those ``models``; what is removed is left out."""
    teams = {model.name: model.team or "" for model in models}
    found = []
    for each in failures:
        known = tuple(name for name in each.models if name in teams)
        theirs = {name: teams[name] for name in known}
        found.append(each.model_copy(update={"models": known, "teams": theirs}))
    return tuple(found)


def _digest(config: Config, runtime: RuntimeName) -> str:
    section = config.runtime_sections[runtime].model_dump_json()
    return hashlib.sha256(section.encode()).hexdigest()[:16]
