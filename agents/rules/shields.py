"""Models that advice keeps loaded although they idle, and against whom (pure)."""

from __future__ import annotations

from agents.rules.placement import MayEvict, no_model
from modelium.models import DepartureKind, Fleet, Model
from modelium.models.advice import Advice
from modelium.policy.departures import spared


class Shields:
    """What advice and standing departures spare. One per plan.

    Advice of this moment spares a model from idling out and from making room: what that costs is
    charged before the plan is accepted. A departure that stands spares it from idling out, and, if
    it gave something up, from making room for what was queued when it was accepted. What is
    queued later was not in its price, so it is not kept waiting.
    """

    def __init__(self, *, fleet: Fleet, advice: Advice, now: float) -> None:
        """``now``: seconds since the epoch."""
        self._advised = frozenset(advice.spare)
        self._names = spared(fleet, now=now) | self._advised
        spares = [d for d in fleet.departures if d.kind is DepartureKind.SPARE and not d.shadow]
        # What several spares of one plan give up is in the price of the first of them.
        paid = {d.at for d in spares if d.price_s > 0}
        self._around: dict[tuple[int, frozenset[str]], tuple[MayEvict, MayEvict]] = {}
        self._paid_at: dict[str, float] = {}
        """Model → when it was last spared from making room, at a price."""
        for spare in spares:
            if spare.at in paid and spare.until > now:
                self._paid_at[spare.model] = max(spare.at, self._paid_at.get(spare.model, 0.0))

    def from_idling(self, model: Model) -> bool:
        """Whether ``model`` stays although it idles."""
        return model.name in self._names

    def around(self, may_evict: MayEvict, *, by: Model) -> MayEvict:
        """Return ``may_evict`` for a load of ``by``, for which no request waits, without these."""
        if may_evict is no_model or not self._names:
            return may_evict
        kept = frozenset(name for name in self._names if self._is_kept(name, by))
        if not kept:
            return may_evict
        key = id(may_evict), kept
        if key not in self._around:
            # Kept: the placement search remembers what it found for each of these functions.
            allowed: MayEvict = lambda victim: victim.name not in kept and may_evict(victim)  # noqa: E731
            self._around[key] = may_evict, allowed
        return self._around[key][1]

    def _is_kept(self, victim: str, by: Model) -> bool:
        if victim in self._advised:
            return True
        paid_at = self._paid_at.get(victim)
        return paid_at is not None and by.queued_at is not None and by.queued_at <= paid_at
