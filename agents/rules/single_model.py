"""The plan for one model: it is new, a request waits for it, or an operator asks for it."""

from __future__ import annotations

from agents.rules import reasons
from agents.rules.placement import any_model
from agents.rules.plan_builder import Outcome, PlanBuilder
from agents.rules.ranking import may_retry
from modelium.lifecycle import ModelState
from modelium.models import Model, Trigger
from modelium.policy.eligibility import may_queue

S = ModelState


def plan_single_model(builder: PlanBuilder, name: str) -> None:
    """Add the actions that answer a question about the model ``name``."""
    model = builder.fleet.models_by_name.get(name)
    if model is None:
        builder.reason = f"no model named {name} is registered; see `modelium ls`"
        return
    trigger = builder.question.trigger
    settled = reasons.left_alone(model, builder.policy, trigger=trigger, now=builder.now)
    if settled:
        builder.keep(model, settled)
        return
    if not builder.is_runnable(model):
        return
    if trigger is Trigger.INGEST and name in builder.held and may_queue(model):
        builder.queue(model, "the LLM has it wait; a request loads it at once")
        return
    if trigger is Trigger.INGEST:
        _set_aside_better_ranked(builder, model)
        may_evict = builder.shields.around(builder.idled_out, by=model)
        outcome = builder.load(model, may_evict=may_evict)
    else:
        outcome = builder.load(model, may_evict=any_model)
    if outcome is Outcome.NO_ROOM and model.twin_of is not None:
        why = builder.barred.get(name) or reasons.no_room(model, builder.fleet, builder.memory)
        builder.keep(model, f"does not fit beside the version that is loaded: {why}")
    elif outcome is Outcome.NO_ROOM:
        builder.queue(model)


def _set_aside_better_ranked(builder: PlanBuilder, model: Model) -> None:
    """Reserve memory for the waiting models that rank before the new ``model``."""
    others = [
        other
        for other in builder.fleet.models
        if other.state in (S.QUEUED, S.ANALYZED)
        and may_retry(other, now=builder.now)
        and other.name != model.name
    ]
    for other in builder.in_order([*others, model]):
        if other.name == model.name:
            return
        builder.set_aside(other)
