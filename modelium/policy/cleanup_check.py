"""The validator of clean-up: unloads that no plan names, because no model is to be there (pure).

They end what a run has left in a runtime: an interrupted load, a lost engine, a copy that nobody
wants. Whatever the caller believes, what serves stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from modelium.lifecycle import IN_TRANSITION, ModelState
from modelium.models import Frozen, Model, RuntimeName, Violation
from modelium.policy.policy import Policy

Cause = Literal["begun", "lost", "leftover"]


class Cleanup(Frozen):
    """An unload in one runtime, without a plan."""

    runtime: RuntimeName
    instance: str
    """What the runtime calls it."""
    cause: Cause
    """``begun``: the store has the model in transition, and this goes on with that. ``lost``: the
    runtime reported the model's engine as gone or sick. ``leftover``: no model of the store is
    loaded there."""


def validate_cleanup(cleanup: Cleanup, models: Iterable[Model], policy: Policy) -> list[Violation]:
    """Return what forbids ``cleanup``, given all ``models`` as the store has them now."""
    standing = [
        model
        for model in models
        if model.deployment is not None
        and (model.deployment.runtime, model.deployment.name) == (cleanup.runtime, cleanup.instance)
    ]
    return [
        Violation(rule=rule, subject=cleanup.instance, message=message)
        for rule, message in _faults(cleanup, standing, policy)
    ]


def _faults(cleanup: Cleanup, standing: list[Model], policy: Policy) -> Iterator[tuple[str, str]]:
    name, runtime = cleanup.instance, cleanup.runtime
    if cleanup.cause == "leftover":
        if not policy.enabled:
            yield "disabled", "orchestration.enabled is false: nothing is loaded or unloaded"
        if not policy.rules(runtime).enabled:
            yield "runtime-disabled", f"{runtime} is not enabled: nothing is unloaded from it"
        for model in standing:
            loading = model.state is ModelState.LOADING
            yield "in-use", f"{name} is {'being loaded' if loading else model.state.value}"
    elif cleanup.cause == "begun":
        for model in standing:
            if model.state not in IN_TRANSITION:
                yield (
                    "serving",
                    f"{name} is {model.state} in {runtime}; only an unload that was decided, or "
                    "a load that has not ended, is cleaned up",
                )
    elif not any(model.state is ModelState.READY for model in standing):
        yield "not-lost", f"{name} in {runtime} is no ready model’s engine any more"
