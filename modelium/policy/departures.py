"""Which departures of an LLM from the rules are allowed, and what they may cost (no I/O here).

A kind has a budget of load-seconds per hour, and has to earn trust: until three of its last five
judged departures were right, they are shadows, which are recorded and judged while the rules' plan
is carried out. So an LLM without judgement costs nothing, whatever the budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

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
REMEMBERED_S = 7 * 86_400.0
"""For which departures count: trust that is not used for so long has to be earned again."""

JUDGED = 5
RIGHT = 3
"""A kind is trusted while so many of the last `JUDGED` departures were right: one or two may be
luck."""

SLACK = 0.999
"""Load times are floats that were summed in another order."""


def held(fleet: Fleet, *, now: float) -> frozenset[str]:
    """Return the models that wait although the rules would load them."""
    return _standing(K.QUEUE, fleet, now)


def spared(fleet: Fleet, *, now: float) -> frozenset[str]:
    """Return the models that stay although the rules would unload them."""
    return _standing(K.SPARE, fleet, now)


def _standing(kind: DepartureKind, fleet: Fleet, now: float) -> frozenset[str]:
    return frozenset(
        d.model for d in fleet.departures if d.kind is kind and d.until > now and not d.shadow
    )


def noted(departure: Departure, asked: Mapping[str, float], *, at: float) -> Departure:
    """Return ``departure`` with what was asked for by ``at`` (epoch).

    Nothing before it or after its ``until`` counts. ``asked``: model → its last request (epoch).
    """

    def first(found: float | None, names: Iterable[str]) -> float | None:
        times = [asked[name] for name in names if name in asked]
        counted = [t for t in times if departure.at < t <= departure.until]
        return found if found is not None else min(counted, default=None)

    return departure.model_copy(
        update={
            "asked_at": first(departure.asked_at, departure.wrong_if),
            "needed_at": first(departure.needed_at, departure.right_if),
            "seen_until": max(departure.seen_until, min(at, departure.until)),
        }
    )


def was_wrong(departure: Departure) -> bool | None:
    """Whether ``departure`` turned out wrong; ``None`` where that is not known.

    It is known once its whole time was watched, and never changes then; earlier where a model was
    asked for that should not have been. A time that was not watched is void: it is never known.
    Other devices are not judged: they may give up nothing.
    """
    if departure.kind is K.DEVICE:
        return None
    if departure.asked_at is not None:
        return True
    return departure.needed_at is None if departure.seen_until >= departure.until else None


def is_trusted(kind: DepartureKind, departures: Iterable[Departure]) -> bool:
    """Whether departures of ``kind`` are carried out; otherwise they are shadows.

    ``departures``: those of the last `REMEMBERED_S`.
    """
    if kind is K.DEVICE:
        return True
    judged: dict[float, bool] = {}  # those of one plan are one
    for departure in _counted(kind, departures):
        wrong = was_wrong(departure)
        if wrong is not None:
            judged[departure.at] = wrong or judged.get(departure.at, False)
    latest = sorted(judged, reverse=True)[:JUDGED]
    return [judged[at] for at in latest].count(False) >= RIGHT


def _counted(kind: DepartureKind, departures: Iterable[Departure]) -> list[Departure]:
    """Return those of ``kind`` that repeat none whose time is not over.

    A shadow leaves all as it was, so that it is offered again: one request must not prove both.
    """
    found: list[Departure] = []
    for departure in sorted((d for d in departures if d.kind is kind), key=lambda d: d.at):
        if not _repeats(departure, found):
            found.append(departure)
    return found


def _repeats(departure: Departure, earlier: Sequence[Departure]) -> bool:
    """Whether one request could prove ``departure`` and an open one of ``earlier``."""
    # Those of a kind end in the order in which they were made.
    still_open = takewhile(lambda d: d.until > departure.at, reversed(earlier))
    return any(
        d.at < departure.at
        and (d.model == departure.model or not {*d.right_if}.isdisjoint(departure.right_if))
        for d in still_open
    )


def left_s(kind: DepartureKind, fleet: Fleet, policy: Policy, *, now: float) -> float | None:
    """Return the load-seconds that departures of ``kind`` may still give up in this hour.

    Shadows count: they are judged by what they could have done. ``None``: the operator does not
    allow the kind. Other devices may give up nothing, as nobody could judge whether that was right.
    """
    bound = policy.departures.get(kind)
    if bound is None:
        return None
    if kind is K.DEVICE:
        return 0.0
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
        left = left_s(kind, fleet, policy, now=now)
        if left is None:
            yield _fault(names, f"{names}: brain.may does not allow {kind}")
        elif not all(d.shadow for d in of_kind) and not is_trusted(kind, fleet.departures):
            yield _fault(
                names,
                f"{names}: {kind} is not trusted: fewer than {RIGHT} of the last {JUDGED} "
                "were right",
            )
        elif price_s * SLACK > left:
            allowed = (
                "other devices may give up nothing"
                if kind is K.DEVICE
                else f"brain.may.{kind} allows {policy.departures[kind]:g} per hour, "
                f"{left:.0f} are left"
            )
            yield _fault(names, f"{names}: {kind} gives up {price_s:.0f} load-seconds; {allowed}")


def _untrue(departure: Departure, model: Model, plan: Plan, policy: Policy, now: float) -> str:
    """Return what contradicts ``departure``; empty where nothing does.

    A shadow is not in the plan.
    """
    loads = {a.model for a in plan.actions if isinstance(a, Load)}
    unloads = {a.model for a in plan.actions if isinstance(a, Unload)}
    match departure.kind:
        case _ if departure.shadow:
            pass
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
