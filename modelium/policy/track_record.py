"""Runtimes that keep failing a class of models are avoided while others can serve it (no I/O here).

The evidence is bounded in count and time, and it takes nothing from a model that loads: a runtime
that is avoided is used where no other one can serve the model.
"""

from __future__ import annotations

from modelium.models import Fleet, Model, RuntimeName
from modelium.models.outcomes import ClassFailures, ModelClass
from modelium.policy.policy import Policy

MODELS = 2
"""Models of a class that must have failed: one alone may have the fault itself."""

TEAMS = 2
"""Teams whose models must have failed for those of a third to avoid the runtime: what one team
drops, broken on purpose or not, changes nothing for the others."""


def avoided(model: Model, fleet: Fleet, policy: Policy) -> dict[RuntimeName, ClassFailures]:
    """Return the runtimes that are to be avoided for ``model``, each with the evidence.

    A runtime that has loaded the model itself is not avoided: its own record counts more than that
    of its class.
    """
    if not fleet.class_failures or model.profile is None:
        return {}
    own = {load.runtime for load in model.measured}
    return {
        found.runtime: found
        for found in fleet.failures_by_class.get(ModelClass.of(model.profile), ())
        if found.runtime not in own and counts(found, model, policy, now=fleet.at)
    }


def counts(found: ClassFailures, model: Model, policy: Policy, *, now: float) -> bool:
    """Whether ``found`` is enough, and recent enough, to avoid its runtime for ``model``.

    `MODELS` of its own team must have failed, or models of `TEAMS` teams.
    """
    needed = policy.avoid_runtime_after
    teams = [found.teams.get(name, "") for name in found.models]
    return (
        0 < needed <= found.failures
        and (teams.count(model.team or "") >= MODELS or len(set(teams)) >= TEAMS)
        and now - found.last_at < policy.avoid_runtime_s
    )


def reason(found: ClassFailures) -> str:
    """Return why the runtime is avoided, for an action's reason."""
    named = ", ".join(found.models[:3]) + (", …" if len(found.models) > 3 else "")
    return (
        f"not in {found.runtime}, where the last {found.failures} loads of models of its class "
        f"failed ({named})"
    )
