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


def wish_outcomes(model: Model, policy: Policy) -> tuple[str, ...]:
    """Return a sentence for each wish in the note of ``model``, and for each of its mistakes."""
    if model.wishes is None:
        return ()
    return tuple(_outcomes(model, model.wishes, policy))


def _outcomes(model: Model, wishes: Wishes, policy: Policy) -> Iterator[str]:
    if wishes.team is not None:
        yield f"team {wishes.team}: {_team(model, wishes.team)}"
    if wishes.priority is not None:
        yield f"priority {wishes.priority}: {_priority(model, wishes.priority, policy)}"
    if wishes.context is not None:
        yield f"context {wishes.context}: {_context(model, wishes, policy)}"
    if wishes.runtime is not None:
        yield f"runtime {wishes.runtime}: {_runtime(model, wishes.runtime, policy)}"
    if wishes.text:
        yield f"in words, which only people and an LLM read: {' '.join(wishes.text.split())}"
    yield from wishes.problems


def _team(model: Model, wished: str) -> str:
    if model.team == wished:
        return "granted"
    owner = f"team {model.team}" if model.team else "no team"
    return (
        f"not granted, it belongs to {owner}; drop it into that team's folder, or ask an operator "
        f"for teams.{wished}.claimable"
    )


def _priority(model: Model, wished: Priority, policy: Policy) -> str:
    if model.priority.rank <= wished.rank:
        return "granted"
    if model.priority_ceiling.rank > wished.rank:
        return f"not granted, its ceiling is {model.priority_ceiling}"
    if model.team in policy.teams:
        return f"not granted, an operator or a plan has given it {model.priority}"
    return (
        f"not granted, it has {model.priority}; a wish counts up to the ceiling of a declared "
        "team, or one that an operator has set for the model"
    )


def _context(model: Model, wishes: Wishes, policy: Policy) -> str:
    if "max_model_len" in policy.model_settings.get(model.name, {}):
        return f"not used, models.{model.name}.settings has max_model_len"
    if model.profile is None or model.profile.context_length is None:
        return "not used, the model has no context length"
    runtime = model.deployment.runtime if model.deployment else wishes.runtime
    given = policy.settings(runtime, model.name)[0] if runtime is not None else {}
    default = given.get("max_model_len")
    requested = default if isinstance(default, int) else None
    found = wished_context(wishes, model.profile, requested, policy)
    if found is None:
        return f"not needed, without it there are {requested or model.profile.context_length}"
    raised = "" if found == wishes.context else f" as {found} (max_model_len_floor)"
    return f"used{raised} by {' and '.join(sorted(WITH_CONTEXT))}"


def _runtime(model: Model, wished: RuntimeName, policy: Policy) -> str:
    if model.profile is not None and not model.profile.support(wished).supported:
        return f"not possible, {model.profile.support(wished).reason or 'it cannot serve it'}"
    if not policy.rules(wished).enabled:
        return "not possible, it is not enabled"
    if wished in worn_out(model, policy):
        return f"not used, it failed {model.setbacks.runtimes[wished]} times there"
    if model.deployment is None:
        return "tried first at its next load"
    if model.deployment.runtime is wished:
        return "used"
    return f"not used, it was loaded in {model.deployment.runtime} at less cost"
