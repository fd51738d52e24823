"""What counts of the wishes that came with a model, and what became of them (no I/O here)."""

from __future__ import annotations

from collections.abc import Iterator

from modelium.models import Model, ModelProfile, Priority, RuntimeName, Wishes
from modelium.policy.backoff import worn_out
from modelium.policy.policy import Policy

WITH_CONTEXT = frozenset({RuntimeName.VLLM, RuntimeName.LLAMA_CPP})
"""Runtimes that are told a context."""


def wished_context(
    wishes: Wishes | None, profile: ModelProfile, requested: int | None, policy: Policy
) -> int | None:
    """Return the context in tokens that a wish makes of ``requested``; ``None``: it stays.

    A wish only shortens it, never below ``max_model_len_floor``: a longer one takes memory that
    the operator has not given.
    """
    if wishes is None or wishes.context is None:
        return None
    most = requested or profile.context_length
    if most is None:
        return None
    wanted = max(wishes.context, policy.max_model_len_floor)
    return wanted if wanted < most else None


def longest_wished(model: Model, policy: Policy) -> int | None:
    """Return the longest context in tokens that the owner of ``model`` wishes.

    ``None``: there is no such wish, or the operator has set the context of this model.
    """
    if model.wishes is None or model.wishes.context is None:
        return None
    if "max_model_len" in policy.model_settings.get(model.name, {}):
        return None
    return max(model.wishes.context, policy.max_model_len_floor)


def wish_outcomes(model: Model, policy: Policy) -> tuple[str, ...]:
    """Return a sentence for each wish in the note of ``model``, and for each of its mistakes."""
    if model.wishes is None:
        return ()
    return tuple(_outcomes(model, model.wishes, policy))


def _outcomes(model: Model, wishes: Wishes, policy: Policy) -> Iterator[str]:
    if wishes.team is not None:
        yield f"team {wishes.team}: {_team(model, wishes.team, policy)}"
    if wishes.priority is not None:
        yield f"priority {wishes.priority}: {_priority(model, wishes.priority, policy)}"
    if wishes.context is not None:
        yield f"context {wishes.context}: {_context(model, wishes, policy)}"
    if wishes.runtime is not None:
        yield f"runtime {wishes.runtime}: {_runtime(model, wishes.runtime, policy)}"
    if wishes.text:
        yield f"words (read by people and the LLM only): {' '.join(wishes.text.split())}"
    yield from wishes.problems


def _team(model: Model, wished: str, policy: Policy) -> str:
    if model.team == wished:
        return "granted"
    if wished not in policy.teams:
        return "not granted: no such team is declared"
    owner = f"belongs to team {model.team}" if model.team else "has no team"
    return (
        f"not granted: the model {owner}; drop it into the folder of {wished}, or ask an operator "
        f"to set teams.{wished}.claimable"
    )


def _priority(model: Model, wished: Priority, policy: Policy) -> str:
    if model.priority is wished:
        return "granted"
    if model.priority.rank < wished.rank:
        return f"not used: the model has {model.priority}, and a wish never lowers that"
    if model.priority_ceiling.rank > wished.rank:
        return f"not granted: its ceiling is {model.priority_ceiling}"
    if model.team in policy.teams:
        return f"not granted: an operator or a plan gave it {model.priority}"
    return (
        f"not granted: it has {model.priority}; a wish counts only up to the ceiling of a declared "
        "team, or up to one that an operator set for the model"
    )


def _context(model: Model, wishes: Wishes, policy: Policy) -> str:
    if "max_model_len" in policy.model_settings.get(model.name, {}):
        return f"not used: models.{model.name}.settings sets max_model_len"
    if model.profile is None or model.profile.context_length is None:
        return "not used: the context length of the model is not known"
    runtime = model.deployment.runtime if model.deployment else wishes.runtime
    given = policy.settings(runtime, model.name)[0] if runtime is not None else {}
    default = given.get("max_model_len")
    requested = default if isinstance(default, int) else None
    found = wished_context(wishes, model.profile, requested, policy)
    loaded = model.deployment.settings.max_model_len if model.deployment else None
    most = longest_wished(model, policy)
    if loaded is not None and most is not None and loaded > most:
        return f"not used yet: it is loaded with {loaded}; the next load has {most} at most"
    if found is None:
        return f"not needed: the context is {requested or model.profile.context_length} anyway"
    raised = "" if found == wishes.context else f"raised to {found} (max_model_len_floor), "
    return f"{raised}used by {' and '.join(sorted(WITH_CONTEXT))}"


def _runtime(model: Model, wished: RuntimeName, policy: Policy) -> str:
    if model.profile is not None and not model.profile.support(wished).supported:
        return (
            f"not possible: {model.profile.support(wished).reason or 'it cannot serve the model'}"
        )
    if not policy.rules(wished).enabled:
        return "not possible: it is not enabled"
    if wished in worn_out(model, policy):
        return f"not used: {model.setbacks.runtimes[wished]} loads failed there"
    if model.deployment is None:
        return "tried first at the next load"
    if model.deployment.runtime is wished:
        return "used"
    return f"not used: loading the model in {model.deployment.runtime} cost less"
