"""What a plan does otherwise than the rules because of advice, and what that costs (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agents.llm.holes import fitting
from agents.llm.what_if import unloads
from modelium.lifecycle import ModelState
from modelium.models import Departure, DepartureKind, Fleet, Model, Plan
from modelium.models.advice import Advice
from modelium.models.load_time import load_seconds
from modelium.policy import Policy
from modelium.policy.departures import LASTS_S, is_trusted, left_s
from modelium.policy.eligibility import may_queue, should_load

K = DepartureKind


def departures(
    rules: Plan, plan: Plan, advice: Advice, *, fleet: Fleet, policy: Policy, now: float
) -> tuple[Departure, ...]:
    """Return where ``plan``, which was made with ``advice``, departs from that of the ``rules``.

    What other models lose is part of the price of the departure that causes it, once. Departures of
    kinds that are not trusted are shadows. `modelium.policy.validate` says whether all are allowed.
    """
    models = fleet.models_by_name
    theirs, mine = ({a.model: a for a in p.loads} for p in (rules, plan))
    paid = {victim for spot in advice.spots.values() for victim in spot.evicts}
    gone = unloads(plan) - unloads(rules)
    if not advice.spare:
        gone &= paid
    stay = set(advice.spare) - unloads(plan)
    wait = (theirs.keys() - mine.keys()) & set(advice.hold)
    moved = {
        name
        for name in theirs.keys() & mine.keys() & advice.spots.keys()
        if set(mine[name].devices) != set(theirs[name].devices)
    }
    # A load that nobody asked for may be in vain.
    put_off = _loads_s((n for n in advice.spots if n in mine and _is_absent(models[n])), models)
    lost = theirs.keys() - mine.keys() - wait
    if gone or stay or moved:
        put_off += _loads_s(lost, models) + _shut_out_s(rules, plan, fleet, policy)
    gains = tuple(
        sorted(
            {*(mine.keys() - theirs.keys()), *(m.name for m in fitting(plan, rules, fleet, policy))}
        )
    )
    found: list[Departure] = []
    for kind, names in ((K.QUEUE, wait), (K.EVICT, gone), (K.SPARE, stay), (K.DEVICE, moved)):
        for name in sorted(names):
            price = _loads_s({name}, models) if kind in (K.QUEUE, K.EVICT) else 0.0
            if kind is not K.QUEUE:
                price, put_off = price + put_off, 0.0
            one = Departure(
                kind=kind,
                model=name,
                beneficiary=_beneficiary(name, advice, stay) if kind is K.EVICT else "",
                shadow=not is_trusted(kind, fleet.departures),
                price_s=price,
                until=now + LASTS_S[kind],
            )
            found.append(one.model_copy(update=_evidence(one, gains, tuple(sorted(lost)))))
    return tuple(found)


def _evidence(one: Departure, gains: tuple[str, ...], lost: tuple[str, ...]) -> dict[str, Any]:
    """Return by which requests ``one`` is judged.

    ``gains``: models that are loaded, or would fit, only because another one waits. ``lost``:
    models that the rules would have loaded.
    """
    match one.kind:
        case K.QUEUE:
            return {"right_if": gains, "wrong_if": (one.model,)}
        case K.EVICT:
            return {"right_if": (one.beneficiary,), "wrong_if": (one.model, *lost)}
        case K.SPARE:
            return {"right_if": (one.model,), "wrong_if": lost}
    return {}


def _is_absent(model: Model) -> bool:
    return model.state is ModelState.UNLOADED and not model.traffic.pending


def _beneficiary(victim: str, advice: Advice, spared: Iterable[str]) -> str:
    """Return the model that ``victim`` is evicted for, or instead of; empty where there is none."""
    by_spot = (name for name, spot in advice.spots.items() if victim in spot.evicts)
    return next(by_spot, next(iter(sorted(spared)), ""))


def waiting(model: Model, *, now: float) -> Departure:
    """Return the departure of having ``model`` wait."""
    until = now + LASTS_S[K.QUEUE]
    return Departure(kind=K.QUEUE, model=model.name, price_s=load_seconds(model), until=until)


def may_be_held(model: Model, policy: Policy) -> bool:
    """Whether ``model`` may be left waiting: nobody waits for it, and it is not always loaded."""
    return (
        may_queue(model)
        and not should_load(model, policy)
        and not model.traffic.pending
        and model.name not in policy.always_loaded
    )


def less(advice: Advice, kinds: Iterable[DepartureKind]) -> Advice:
    """Return ``advice`` without what makes departures of ``kinds``."""
    update: dict[str, Any] = {}
    if K.QUEUE in kinds:
        update["hold"] = ()
    if K.SPARE in kinds:
        update["spare"] = ()
    if K.EVICT in kinds:
        update["spots"] = {}
        update["prewarm"] = tuple(name for name in advice.prewarm if name not in advice.spots)
    return advice.model_copy(update=update)


def paid(plan: Plan) -> set[str]:
    """Return the models whose eviction ``plan`` declares as a departure."""
    return {d.model for d in plan.departures if d.kind is K.EVICT}


def affordable(wanted: Iterable[Departure], fleet: Fleet, policy: Policy, *, now: float) -> bool:
    """Whether the operator's budgets allow all of ``wanted`` now."""
    prices: dict[DepartureKind, float] = {}
    for one in wanted:
        prices[one.kind] = prices.get(one.kind, 0.0) + one.price_s
    for kind, price in prices.items():
        left = left_s(kind, fleet, policy, now=now)
        if left is None or price > left:
            return False
    return True


def budgets(fleet: Fleet, policy: Policy, *, now: float) -> dict[str, float]:
    """Return kind → load-seconds that may still be given up in this hour, for an LLM to read."""
    left = {kind.value: left_s(kind, fleet, policy, now=now) for kind in policy.departures}
    return {kind: round(seconds) for kind, seconds in left.items() if seconds is not None}


def _shut_out_s(rules: Plan, plan: Plan, fleet: Fleet, policy: Policy) -> float:
    """Return the longest load of a model that would fit free memory after ``rules`` only."""
    return max(map(load_seconds, fitting(rules, plan, fleet, policy)), default=0.0)


def _loads_s(names: Iterable[str], models: Mapping[str, Model]) -> float:
    return sum(load_seconds(models[name]) for name in names if name in models)
