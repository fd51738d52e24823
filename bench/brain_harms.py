"""Counts the harm that a plan does, independently of how plans are made.

A plan that the policy refuses, a pinned or busy model unloaded, a class above the ceiling, an
overbooked device, an illegal transition, less service than with the rules alone. With authority to
depart from the rules, service may be given up: all of it declared, within the operator's bounds, and
never that of waiting requests.
"""

from __future__ import annotations

from collections import Counter

from bench.scenarios import Scenario
from modelium.lifecycle import TRANSITIONS, ModelState
from modelium.models import DepartureKind, Load, Plan, Queue, Unload
from modelium.models.load_time import load_seconds
from modelium.policy import validate


def harms(scenario: Scenario, plan: Plan, rules: Plan) -> list[str]:
    """Return the harm that ``plan`` does, including where it is worse than the ``rules``' plan."""
    fleet, policy = scenario.fleet, scenario.policy
    models, found = fleet.models_by_name, []
    found += [v.message for v in validate(plan, fleet, policy, now=scenario.question.now)]
    booked = {
        d.id: sum(b.bytes for b in fleet.bookings_by_device.get(d.id, ())) for d in fleet.devices
    }
    state = {m.name: m.state for m in fleet.models}
    for action in plan.actions:
        model = models[action.model]
        if isinstance(action, Unload):
            if model.pinned or model.name in policy.always_loaded or model.traffic.in_flight:
                found.append(f"{model.name} is pinned or busy, but is unloaded")
            for device in model.deployment.devices if model.deployment else ():
                held = fleet.bookings_by_device.get(device, ())
                booked[device] -= sum(b.bytes for b in held if b.model == model.name)
        if isinstance(action, Load | Queue) and action.priority.rank < model.priority_ceiling.rank:
            found.append(f"the priority of {model.name} is above its ceiling")
        if isinstance(action, Load):
            if not (model.profile and model.profile.support(action.runtime).supported):
                found.append(f"{action.runtime} cannot serve {model.name}")
            for device, held_bytes in action.reserve.items():
                booked[device] = booked.get(device, 1 << 60) + held_bytes
        asleep = state[model.name] is ModelState.SLEEPING  # it has no requests to drain
        leaves = ModelState.UNLOADING if asleep else ModelState.DRAINING
        target = {"load": ModelState.LOADING, "unload": leaves}.get(action.action)
        if target and target not in TRANSITIONS[state[model.name]]:
            found.append(f"{model.name}: {state[model.name]} → {target} is an illegal transition")
    cap = policy.max_gpu_memory_utilization
    used = {d for a in plan.actions if isinstance(a, Load) for d in a.reserve}
    for device in fleet.devices:
        if device.id in used and booked[device.id] > device.total_bytes * cap:
            found.append(f"{device.id} is overbooked")
    return found + _given_up(scenario, plan, rules) + _worse(plan, rules)


def _given_up(scenario: Scenario, plan: Plan, rules: Plan) -> list[str]:
    """Return where service that the rules would give is given up beyond what the operator allows.

    Counted from the actions alone: each model that is not loaded, and each that is evicted, where
    the rules do otherwise, is one load.
    """
    models, may = scenario.fleet.models_by_name, scenario.policy.departures
    declared = Counter[str]()
    departures = [d for d in plan.departures if not d.shadow]
    for departure in departures:
        declared[departure.kind] += departure.price_s
    found = [
        f"{kind} gives up {price:.0f} load-seconds; {may.get(kind, 0.0):.0f} are allowed"
        for kind, price in declared.items()
        if kind not in may or price > may[kind] * 1.001
    ]
    mine, theirs = ({a.model for a in p.loads} for p in (plan, rules))
    for name in theirs - mine:
        if models[name].traffic.pending or name in scenario.policy.always_loaded:
            found.append(f"requests wait for {name}, which is not loaded")
    if not departures:
        return found
    out = {a.model for a in plan.unloads} - {a.model for a in rules.unloads}
    lost = sum(load_seconds(models[name]) for name in (theirs - mine) | out)
    if len(theirs - mine) > len(mine - theirs) and lost > sum(declared.values()) * 1.001:
        found.append(f"{lost:.0f} load-seconds are given up; {sum(declared.values()):.0f} declared")
    return found


def _worse(plan: Plan, rules: Plan) -> list[str]:
    """Return where ``plan`` gives less service: fewer loads, more evictions, smaller settings."""
    found = []
    mine = {a.model: a for a in plan.actions if isinstance(a, Load)}
    theirs = {a.model: a for a in rules.actions if isinstance(a, Load)}
    departures = [d for d in plan.departures if not d.shadow]
    declared = {d.model for d in departures}
    if len(mine) < len(theirs) and not declared:
        found.append(f"{len(mine)} models are loaded; the rules load {len(theirs)}")
    if plan.subject in theirs and plan.subject not in mine and plan.subject not in declared:
        found.append(f"{plan.subject} has to wait; the rules load it")
    count = Counter(a.action for a in plan.actions)["unload"]
    paid = sum(d.kind is DepartureKind.EVICT for d in departures)
    if count - paid > Counter(a.action for a in rules.actions)["unload"]:
        found.append("more models are evicted than by the rules")
    for name in mine.keys() & theirs.keys():
        if mine[name].runtime is theirs[name].runtime:
            for setting in ("max_model_len", "max_num_seqs"):
                own = getattr(mine[name].settings, setting) or 1 << 60
                if own < (getattr(theirs[name].settings, setting) or 0):
                    found.append(f"{name} gets a smaller {setting} than by the rules")
    return found
