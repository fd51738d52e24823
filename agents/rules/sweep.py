"""The plan for the whole fleet: idle models, memory pressure, the queue, prewarming."""

from __future__ import annotations

from agents.rules import reasons
from agents.rules.draining import plan_draining
from agents.rules.keep_value import loss_per_byte
from agents.rules.placement import MayEvict, any_model, no_model
from agents.rules.plan_builder import Outcome, PlanBuilder
from agents.rules.prewarming import expected_soon
from agents.rules.ranking import is_starving, may_retry, priority_class
from modelium.lifecycle import TRANSITIONS, ModelState
from modelium.models import Device, EvictionCause, Model, Priority, Trigger
from modelium.models.load_time import load_seconds
from modelium.policy.backoff import is_retried
from modelium.policy.eligibility import is_pinned, over_cap, should_load

S = ModelState

PREWARMS_PER_PLAN = 2
"""Few, so that loads that nobody waits for do not delay the others."""

STARVING_PER_PLAN = 1
"""Starving models that may evict per plan: a long queue must not empty the devices."""


def plan_sweep(builder: PlanBuilder) -> None:
    """Add the actions that the fleet needs now, in the order of docs/planner.md."""
    if not builder.policy.enabled:
        builder.reason = reasons.DISABLED
        return
    question = builder.question
    if question.unload_idle and question.trigger is not Trigger.UPKEEP:
        _unload_idle(builder)
    _relieve_pressure(builder)
    _load_always_loaded(builder)
    _dequeue(builder)
    plan_draining(builder)
    _prewarm(builder)


def _unload_idle(builder: PlanBuilder) -> None:
    policy = builder.policy
    for model in builder.fleet.models:
        idled_out = builder.idled_out(model) and not builder.shields.from_idling(model)
        if idled_out and builder.may_unload(model):
            builder.unload(
                model,
                f"idle for {model.idle_s(builder.now):.0f} s "
                f"(auto_unload_after_seconds is {policy.auto_unload_after_s:g}) with "
                f"{model.traffic.qps_last_hour:.3g} requests/s in the last hour "
                f"(min_qps_threshold is {policy.min_qps_threshold:g})",
                cause=EvictionCause.IDLE,
            )


def _relieve_pressure(builder: PlanBuilder) -> None:
    """Evict from devices whose measured use is over the cap, least value per byte first."""
    models, policy = builder.fleet.models_by_name, builder.policy
    for device in builder.fleet.devices:
        if not over_cap(device, policy):
            continue
        held = builder.fleet.bookings_by_device.get(device.id, ())
        cap = device.total_bytes * policy.max_gpu_memory_utilization
        excess = device.total_bytes - device.free_bytes - cap
        excess -= sum(b.held_bytes for b in held if b.model in builder.memory.leaving)
        excess -= sum(b.held_bytes for b in held if b.releasing)
        able = [
            (models[b.model], b.held_bytes)
            for b in held
            if b.model in models and not b.releasing and b.held_bytes > 0
        ]
        able = [(m, b) for m, b in able if _may_relieve(builder, m)]
        able.sort(key=lambda a: loss_per_byte(builder.memory.value(a[0]), a[1]))
        for model, resident in able:
            if excess > 0:
                builder.unload(
                    model, _pressed(model, device, builder), cause=EvictionCause.PRESSURE
                )
                excess -= resident


def _pressed(model: Model, device: Device, builder: PlanBuilder) -> str:
    used, cap = (
        1 - device.free_bytes / device.total_bytes,
        builder.policy.max_gpu_memory_utilization,
    )
    return (
        f"{device.id} is {used:.0%} full (max_gpu_memory_utilization is {cap:.0%}), and this model "
        f"has the least value per byte there; idle for {model.idle_s(builder.now):.0f} s"
    )


def _may_relieve(builder: PlanBuilder, model: Model) -> bool:
    return (
        model.state is S.READY
        and model.name not in builder.memory.leaving
        and not model.traffic.in_flight
        and not model.traffic.pending
        and not is_pinned(model, builder.policy)
        and builder.may_unload(model)
    )


def _load_always_loaded(builder: PlanBuilder) -> None:
    for name in sorted(builder.policy.always_loaded):
        model = builder.fleet.models_by_name.get(name)
        if model is None or S.LOADING not in TRANSITIONS[model.state]:
            continue
        if not may_retry(model, now=builder.now) or not builder.is_runnable(model, quiet=True):
            continue
        outcome = builder.load(model, may_evict=any_model, why="listed in always_loaded")
        if outcome is Outcome.NO_ROOM and model.state is not S.QUEUED:
            builder.queue(model)


def _dequeue(builder: PlanBuilder) -> None:
    """Load waiting models, best rank first; smaller ones may overtake one that does not fit."""
    waiting = [
        model
        for model in builder.fleet.models
        if (model.state is S.QUEUED or _in_demand(builder, model) or _retried(builder, model))
        and model.name not in builder.touched
        and may_retry(model, now=builder.now)
    ]
    waiting = builder.in_order(waiting)
    starving_left = STARVING_PER_PLAN
    yielding = [_yielding(builder, priority.rank) for priority in Priority]
    for model in waiting:
        if not _cooled_down(builder, model) or not builder.is_runnable(model, quiet=True):
            continue
        if model.name in builder.held and not _is_urgent(builder, model):
            continue
        if should_load(model, builder.policy):
            outcome = builder.load(model, may_evict=any_model)
        elif starving_left and is_starving(model, now=builder.now):
            outcome = builder.load(model, may_evict=any_model)
            if outcome is Outcome.PLACED:  # what finds no room does not keep the next from it
                starving_left -= 1
        else:
            own = priority_class(model, builder.policy).rank
            outcome = builder.load(model, may_evict=builder.shields.around(yielding[own], by=model))
        if outcome is Outcome.NO_ROOM and (
            model.state in (S.ANALYZED, S.UNLOADED, S.FAILED) or _outdated(builder, model)
        ):
            builder.queue(model)


def _outdated(builder: PlanBuilder, model: Model) -> bool:
    """Whether the queued ``model`` is said to wait for a start that is over.

    Other reasons are not kept up to date: each would be a decision of its own.
    """
    return (
        model.state is S.QUEUED
        and reasons.STARTING in model.reason
        and reasons.no_room(model, builder.fleet, builder.memory) != model.reason
    )


def _yielding(builder: PlanBuilder, rank: int) -> MayEvict:
    """Return which models make room for a queued one of class ``rank``.

    Models of lower classes, models that idled out, and those of teams that have used up their
    GPU-seconds.
    """
    names = {
        model.name
        for model in builder.fleet.models
        if model.state is S.READY
        and (
            priority_class(model, builder.policy).rank > rank
            or builder.idled_out(model)
            or builder.quotas.spent(model)
        )
    }
    return (lambda model: model.name in names) if names else no_model


def _prewarm(builder: PlanBuilder) -> None:
    """Load models that are expected to be requested soon, into memory that nobody needs."""
    soon = []
    for model in builder.fleet.models:
        if model.state is S.UNLOADED and model.name not in builder.touched:
            seconds = load_seconds(model)
            chance, why = expected_soon(model.traffic, now=builder.now, load_s=seconds)
            if chance and may_retry(model, now=builder.now):
                soon.append((-chance * seconds, model.name, model, why))
    soon.sort(key=lambda s: s[:2])
    for _, _, model, why in soon[:PREWARMS_PER_PLAN]:
        _load_ahead(builder, model, why)
    for name in builder.advice.prewarm[:PREWARMS_PER_PLAN]:
        advised = builder.fleet.models_by_name.get(name)
        if (
            advised is not None
            and advised.state is S.UNLOADED
            and name not in builder.touched
            and may_retry(advised, now=builder.now)
        ):
            _load_ahead(builder, advised, "the LLM advised it")


def _is_urgent(builder: PlanBuilder, model: Model) -> bool:
    """Whether ``model`` is loaded whatever an advisor says of it."""
    return bool(model.traffic.pending) or is_starving(model, now=builder.now)


def _load_ahead(builder: PlanBuilder, model: Model, why: str) -> None:
    if _cooled_down(builder, model) and builder.is_runnable(model, quiet=True):
        builder.load(model, may_evict=no_model, why=f"prewarmed: {why}")


def _in_demand(builder: PlanBuilder, model: Model) -> bool:
    return model.state in (S.ANALYZED, S.UNLOADED, S.FAILED, S.SLEEPING) and should_load(
        model, builder.policy
    )


def _retried(builder: PlanBuilder, model: Model) -> bool:
    """Whether a load of ``model``, which somebody wanted, failed and is to be tried again."""
    return model.state is S.FAILED and is_retried(model, builder.fleet, builder.policy)


def _cooled_down(builder: PlanBuilder, model: Model) -> bool:
    """Whether ``model`` may be loaded again after an eviction, with or without a request."""
    return (
        model.evicted_at is None
        or builder.now - model.evicted_at >= builder.policy.reload_cooldown_s
        or should_load(model, builder.policy)
    )
