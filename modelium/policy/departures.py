"""Which departures of an LLM from the rules are allowed, and what they may cost (no I/O here).

A kind has a budget of load-seconds per hour. Until one of its departures turned out right, only one
may be open at a time; when three of the last five were wrong, it rests for a day. So an LLM without
judgement costs next to nothing, whatever the budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from modelium.models import (
    Departure,
    DepartureKind,
    Fleet,
    Load,
    Model,
    Plan,
    Unload,
    Violation,
)
from modelium.models.load_time import load_seconds
from modelium.policy.policy import Policy

K = DepartureKind

LASTS_S = {K.QUEUE: 600.0, K.SPARE: 900.0, K.EVICT: 1800.0, K.DEVICE: 0.0}
"""For how long a departure stands. A model waits for two reviews at the usual interval, and a
spared one stays for three; one that was evicted is asked for within half an hour, or was rightly
evicted."""

HOUR_S = 3600.0
DAY_S = 86_400.0
REMEMBERED_S = 2 * DAY_S
"""For which departures count: a rest, and what led to it."""

JUDGED = 5
WRONG = 3
"""A kind rests when so many of the last `JUDGED` departures were wrong: two may be bad luck, and a
player that departs at random is right now and then."""

REST_S = 86_400.0
"""How long it rests: an operator sees it in `modelium brain ls` meanwhile."""

SLACK = 0.999
"""Load times are floats that were summed in another order."""


def held(fleet: Fleet, *, now: float) -> frozenset[str]:
    """Return the models that wait although the rules would load them."""
    return _standing(K.QUEUE, fleet, now)


def spared(fleet: Fleet, *, now: float) -> frozenset[str]:
    """Return the models that stay although the rules would unload them."""
    return _standing(K.SPARE, fleet, now)


def _standing(kind: DepartureKind, fleet: Fleet, now: float) -> frozenset[str]:
    return frozenset(d.model for d in fleet.departures if d.kind is kind and d.until > now)


def was_wrong(departure: Departure, models: Mapping[str, Model], *, now: float) -> bool | None:
    """Whether ``departure`` turned out wrong; ``None`` where that is not known yet.

    A model that waited or was evicted should not have been asked for by its time; one that was
    spared, or that another one was evicted for, should have. Other devices are never wrong: what
    they cost is counted where it is paid.
    """
    kind = departure.kind
    if kind is K.DEVICE:
        return False
    if kind in (K.QUEUE, K.EVICT) and departure.asked_at is not None:
        return True
    needed = {K.SPARE: departure.model, K.EVICT: departure.beneficiary}.get(kind, "")
    model = models.get(needed)
    last = model.traffic.last_request_at if model is not None else None
    was_asked = last is not None and last > departure.at
    if kind is K.SPARE and was_asked:
        return False
    if now < departure.until:
        return None
    return bool(needed) and not was_asked


def rests_until(kind: DepartureKind, fleet: Fleet, *, now: float) -> float | None:
    """Return until when departures of ``kind`` are not allowed; ``None``: they are now."""
    judged: dict[float, bool] = {}  # those of one plan are one
    for departure in fleet.departures:  # the newest first
        if departure.kind is kind and (departure.at in judged or len(judged) < JUDGED):
            wrong = was_wrong(departure, fleet.models_by_name, now=now)
            if wrong is not None:
                judged[departure.at] = wrong or judged.get(departure.at, False)
    wrongs = [at for at, wrong in judged.items() if wrong]
    if len(wrongs) < WRONG or wrongs[0] + REST_S <= now:
        return None
    return wrongs[0] + REST_S


def open_until(kind: DepartureKind, fleet: Fleet, *, now: float) -> float | None:
    """Return when the open departure is judged that others of ``kind`` wait for.

    ``None``: there is none, or the last one that was judged was right.
    """
    pending = None
    for departure in fleet.departures:
        if departure.kind is kind:
            match was_wrong(departure, fleet.models_by_name, now=now):
                case None:
                    pending = pending or departure.until
                case wrong:
                    return pending if wrong else None
    return pending


def is_proven(kind: DepartureKind, fleet: Fleet, *, now: float) -> bool:
    """Whether the last departure of ``kind`` that was judged was right."""
    judged = (
        was_wrong(d, fleet.models_by_name, now=now) for d in fleet.departures if d.kind is kind
    )
    return next((not wrong for wrong in judged if wrong is not None), kind is K.DEVICE)


def left_s(kind: DepartureKind, fleet: Fleet, policy: Policy, *, now: float) -> float | None:
    """Return the load-seconds that departures of ``kind`` may still give up in this hour.

    ``None``: the operator does not allow the kind, it rests, or one of it has to be judged first.
    """
    bound = policy.departures.get(kind)
    if bound is None or rests_until(kind, fleet, now=now) is not None:
        return None
    if open_until(kind, fleet, now=now) is not None:
        return None
    spent = sum(d.price_s for d in fleet.departures if d.kind is kind and d.at > now - HOUR_S)
    return max(0.0, bound - spent)


def departure_faults(
    plan: Plan, fleet: Fleet, policy: Policy, *, now: float
) -> Iterator[Violation]:
    """Yield what is wrong with the departures of ``plan``: not allowed, not true, too expensive."""
    wanted: dict[DepartureKind, float] = {}
    for departure in plan.departures:
        kind = departure.kind
        wanted[kind] = wanted.get(kind, 0.0) + departure.price_s
        model = fleet.models_by_name.get(departure.model)
        wrong = "no such model" if model is None else _untrue(departure, model, plan, policy, now)
        if wrong:
            yield _fault(departure.model, f"{departure.model}: {kind}: {wrong}")
    for kind, price_s in wanted.items():
        of_kind = [d for d in plan.departures if d.kind is kind]
        names = ", ".join(d.model for d in of_kind)
        several = len({d.beneficiary or d.model for d in of_kind}) > 1
        first = open_until(kind, fleet, now=now)
        left = left_s(kind, fleet, policy, now=now)
        until = rests_until(kind, fleet, now=now)
        if kind not in policy.departures:
            yield _fault(names, f"{names}: brain.may does not allow {kind}")
        elif until is not None:
            yield _fault(
                names,
                f"{names}: {WRONG} of the last {JUDGED} departures of the kind {kind} were wrong; "
                f"it rests for {until - now:.0f} s",
            )
        elif first is not None or (several and not is_proven(kind, fleet, now=now)):
            when = f"; the last one is judged in {first - now:.0f} s" if first else ""
            yield _fault(names, f"{names}: {kind}: only one at a time until one was right{when}")
        elif left is not None and price_s * SLACK > left:
            yield _fault(
                names,
                f"{names}: {kind} gives up {price_s:.0f} load-seconds; brain.may.{kind} allows "
                f"{policy.departures[kind]:g} per hour, {left:.0f} are left",
            )


def _untrue(departure: Departure, model: Model, plan: Plan, policy: Policy, now: float) -> str:
    """Return what contradicts ``departure``; empty where nothing does."""
    loads = {a.model for a in plan.actions if isinstance(a, Load)}
    unloads = {a.model for a in plan.actions if isinstance(a, Unload)}
    match departure.kind:
        case K.QUEUE:
            if model.name in loads:
                return "the plan loads it"
            if model.traffic.pending or model.name in policy.always_loaded:
                return "requests wait for it, or it is in always_loaded"
        case K.EVICT if model.name not in unloads:
            return "the plan does not unload it"
        case K.SPARE if model.name in unloads or model.deployment is None:
            return "the plan unloads it, or it is not loaded"
        case K.DEVICE if model.name not in loads:
            return "the plan does not load it"
    lasts = LASTS_S[departure.kind]
    if lasts and not 0.0 <= departure.until - now <= lasts + 1.0:
        return f"it may stand for {lasts:g} s"
    least = load_seconds(model) if departure.kind in (K.QUEUE, K.EVICT) else 0.0
    if departure.price_s < least * SLACK:
        return f"its price is {departure.price_s:.0f} load-seconds; one load takes {least:.0f} s"
    return ""


def _fault(subject: str, message: str) -> Violation:
    return Violation(rule="departure", subject=subject, message=message)
