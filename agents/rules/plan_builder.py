"""A plan under construction: the actions so far and the device memory that they leave."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import Enum

from agents.rules import reasons
from agents.rules.device_memory import DeviceMemory
from agents.rules.fair_queue import fair_order
from agents.rules.idle_memory import lend_idle_memory
from agents.rules.placement import MayEvict, Placement, Placer
from agents.rules.placement_search import PlacementSearch
from agents.rules.ranking import Rank, priority_class, rank
from agents.rules.shields import Shields
from agents.rules.sizing import Sizer
from agents.rules.team_quotas import TeamQuotas
from modelium.lifecycle import SETTLED, ModelState
from modelium.models import (
    Action,
    EvictionCause,
    Fleet,
    Keep,
    Load,
    Model,
    Plan,
    Queue,
    Reject,
    Unload,
)
from modelium.models.advice import Advice
from modelium.policy import Policy, track_record
from modelium.policy.backoff import worn_out
from modelium.policy.departures import held
from modelium.policy.eligibility import may_queue, should_unload
from modelium.policy.node_rules import silent_node
from modelium.ports import Question

AUTHOR = "rules"
REASONS_JOINED = 4
"""Actions whose reasons make up the plan's own reason."""


class Outcome(Enum):
    """How an attempt to load ended."""

    PLACED = "placed"
    NO_ROOM = "no room"
    REJECTED = "rejected"


class PlanBuilder:
    """Collects actions; each changes `memory` at once. One per plan."""

    def __init__(
        self,
        *,
        question: Question,
        fleet: Fleet,
        policy: Policy,
        now: float,
        memory: DeviceMemory,
        sizer: Sizer,
        advice: Advice,
    ) -> None:
        """Start without actions; ``now`` in seconds since the epoch."""
        self.question = question
        self.advice = advice
        self.fleet = fleet
        self.policy = policy
        self.now = now
        self.memory = memory
        self.held = held(fleet, now=now).union(advice.hold)
        """Names of the models that wait although they could be loaded; see `Advice.hold`."""
        self.shields = Shields(fleet=fleet, advice=advice, now=now)
        self.touched: set[str] = set()
        """Names of the models that have an action."""
        self.reason = ""
        """The plan's reason, where it is not made of the actions' reasons."""
        self._actions: list[Action] = []
        self.quotas = TeamQuotas(question=question, fleet=fleet, policy=policy, memory=memory)
        self.barred: dict[str, str] = {}
        """Model → the quota of its team that kept it from being loaded."""
        self._kv_ceilings: dict[str, int] = {}
        """Model → bytes per device that its KV cache could use in idle memory."""
        self._search = PlacementSearch(
            fleet=fleet,
            policy=policy,
            sizer=sizer,
            placer=Placer(memory=memory, way=policy.placement),
            spots=advice.spots,
        )

    def plan(self) -> Plan:
        """Return the finished plan."""
        self._actions = lend_idle_memory(
            self._actions,
            self._kv_ceilings,
            self.memory,
            self.fleet,
            self.policy,
            quota=self.quotas.left,
        )
        of_actions = (f"{a.model}: {a.reason}" for a in self._actions[:REASONS_JOINED])
        return Plan(
            author=AUTHOR,
            trigger=self.question.trigger,
            subject=self.question.model,
            actions=tuple(self._actions),
            candidates=tuple(self._search.candidates),
            reason=self.reason or "; ".join(of_actions),
            revision=self.fleet.revision,
        )

    # --- what is allowed ------------------------------------------------------------------

    def may_unload(self, model: Model) -> bool:
        """Whether the runtime that holds ``model`` is enabled, so that it may unload it."""
        held = model.deployment
        if held is None:
            return True
        if silent_node(held, self.fleet) is not None:
            return False
        status = self.fleet.runtime_on(held.runtime, held.node)
        return status is not None and status.enabled and self.policy.rules(held.runtime).enabled

    def idled_out(self, model: Model) -> bool:
        """Whether ``model`` may be unloaded for idling alone, as far as no advice spares it."""
        return should_unload(model, self.policy, now=self.now)

    def is_runnable(self, model: Model, *, quiet: bool = False) -> bool:
        """Whether ``model`` can run at all; if not, reject it unless ``quiet``."""
        if model.removal is not None:
            return False
        twin = self.fleet.twins.get(model.name)
        if twin is not None and twin.deployment is not None:
            if not quiet:
                self.keep(model, f"version {twin.version} of it is {twin.state}, and takes over")
            return False
        if model.profile is None:
            if not quiet:
                self.keep(model, "not analyzed yet")
            return False
        reason = reasons.not_runnable(model, model.profile, self.policy)
        if reason and not quiet:
            self.reject(model, reason)
        return not reason

    def in_order(self, waiting: Iterable[Model]) -> list[Model]:
        """Return the models ``waiting`` for memory in the order to load them."""

        def ranked(model: Model) -> Rank:
            return rank(model, self.policy, now=self.now, value=self.memory.value(model))

        advised = {name: place for place, name in enumerate(self.advice.order)}
        return fair_order(waiting, self.fleet, self.policy, rank=ranked, advised=advised)

    # --- actions ------------------------------------------------------------------------

    def keep(self, model: Model, reason: str) -> None:
        """Leave ``model`` as it is."""
        self._add(Keep(model=model.name, reason=reason))

    def reject(self, model: Model, reason: str) -> None:
        """Reject ``model``; keep it instead where it holds memory."""
        if model.state in SETTLED:
            self._add(Reject(model=model.name, reason=reason))
        else:
            self.keep(model, reason)

    def unload(
        self,
        model: Model,
        reason: str,
        *,
        cause: EvictionCause,
        sleep: bool = False,
        requeue: bool = False,
    ) -> None:
        """Unload ``model`` and count its memory as free."""
        self.memory.unload(model)
        self._add(
            Unload(model=model.name, sleep=sleep, requeue=requeue, cause=cause, reason=reason)
        )

    def queue(self, model: Model, reason: str = "") -> None:
        """Queue ``model``; without a ``reason``, what prevents its load is the reason."""
        reason = reason or self.barred.get(model.name, "")
        reason = reason or self._no_room(model)
        if not may_queue(model):
            self.keep(model, reason)
            return
        self._add(
            Queue(model=model.name, priority=priority_class(model, self.policy), reason=reason)
        )

    def load(self, model: Model, *, may_evict: MayEvict, why: str = "") -> Outcome:
        """Load ``model`` where `PlacementSearch.find` places it, after the evictions that it needs.

        Rejects a model that is too large for every device. ``why`` begins the reason.
        """
        if not self._search.fits_empty_devices(model):
            reason = reasons.too_large(model, self.fleet, self.policy)
            if reason:
                self.reject(model, reason)
                return Outcome.REJECTED
        spent = self.quotas.spent(model)
        if spent:
            self.barred[model.name] = spent
            return Outcome.NO_ROOM
        place = self._within_quota(model, may_evict) or self._search.find(
            model, may_evict, limit=self.quotas.left(model)
        )
        if self.question.model is not None:
            self._search.record_refusals(model)
        if place is None:
            return Outcome.NO_ROOM
        self._commit(model, place, why)
        return Outcome.PLACED

    def set_aside(self, model: Model) -> None:
        """Reserve memory for ``model``, without an action, if it fits without evictions."""
        place = self.free_place(model)
        if place is not None:
            self.memory.load(model, place.devices, place.option.reserve)

    def free_place(self, model: Model) -> Placement | None:
        """Return where ``model`` fits as requested without evictions; ``None``: nowhere now."""
        if self.quotas.spent(model):
            return None
        return self._search.find_free(model, limit=self.quotas.left(model))

    def keeps_from_moving(self, model: Model) -> str:
        """Return why no other node can hold the loaded ``model`` now.

        Where one can, its memory there is set aside, and the reason is empty.
        """
        elsewhere = model.model_copy(update={"state": ModelState.QUEUED, "deployment": None})
        spent = self.quotas.spent(model)
        if spent:
            return spent
        place = self._search.find_free(elsewhere, limit=self.quotas.left(model))
        if place is None:
            refused = self._search.refusals(model)
            return "; ".join(["no other node has room for it without evictions", *refused])
        self.memory.load(model, place.devices, place.option.reserve)
        return ""

    # --- inside ---------------------------------------------------------------------------

    def _within_quota(self, model: Model, may_evict: MayEvict) -> Placement | None:
        """Return where ``model`` goes once models of its team, which are unloaded, made room.

        ``None`` where the quota has room, or that does not help; notes what prevents the load.
        """
        wanted = self._search.least_bytes(model)
        over = "" if wanted is None else self.quotas.exceeded(model, wanted)
        if wanted is None or not over:
            return None
        leaving = self.quotas.yielding(model, wanted, may_evict)
        if not leaving:
            self.barred[model.name] = over
            return None
        left = (self.quotas.left(model) or 0) + sum(map(self.quotas.booked, leaving))
        place = self._search.within(self.memory.without(leaving)).find(model, may_evict, limit=left)
        if place is None:
            return None
        for victim in leaving:
            self.unload(
                victim,
                f"makes room for {model.name} in the memory quota of team {model.team}: idle for "
                f"{victim.idle_s(self.now):.0f} s, and cheapest to evict of the team's models",
                cause=EvictionCause.SPACE,
                sleep=self._can_sleep(victim),
                requeue=self._is_outranked(victim, model),
            )
        return place

    def _no_room(self, model: Model) -> str:
        """Return what prevents the load of ``model``, and which nodes do not take it."""
        reason = reasons.no_room(model, self.fleet, self.memory)
        return "; ".join([reason, *self._search.refusals(model)])

    def _add(self, action: Action) -> None:
        self.touched.add(action.model)
        self._actions.append(action)

    def _commit(self, model: Model, place: Placement, why: str) -> None:
        held = model.deployment
        if model.state is ModelState.SLEEPING and held is not None:
            # Each rank of a sleeping model wakes on its own device.
            place = replace(place, devices=held.devices)
        for name in place.evicts:
            victim = self.fleet.models_by_name[name]
            self.unload(
                victim,
                f"makes room for {model.name}: idle for {victim.idle_s(self.now):.0f} s, and "
                f"cheapest to evict on {', '.join(place.devices)}",
                cause=EvictionCause.SPACE,
                sleep=self._can_sleep(victim),
                requeue=self._is_outranked(victim, model),
            )
        self.memory.load(model, place.devices, place.option.reserve)
        if model.state is not ModelState.SLEEPING:
            self._kv_ceilings[model.name] = place.option.kv_ceiling
        self._search.record_winner(place)
        self._add(
            Load(
                model=model.name,
                runtime=place.option.runtime,
                devices=place.devices,
                settings=place.option.settings,
                reserve=dict.fromkeys(place.devices, place.option.reserve),
                priority=priority_class(model, self.policy),
                reason=reasons.placed(
                    place, why, avoided=self._avoided(model, place), busy=self._busy(place)
                ),
            )
        )

    def _avoided(self, model: Model, place: Placement) -> list[str]:
        """Return which runtimes ``place`` avoids, because ``model`` or its class failed there."""
        taken, found = place.option.runtime, []
        worn = worn_out(model, self.policy)
        if worn and taken not in worn:
            counts = model.setbacks.runtimes
            named = ", ".join(f"{runtime} ({counts[runtime]})" for runtime in sorted(worn))
            found.append(f"not where it failed before (times): {named}")
        poor = track_record.avoided(model, self.fleet, self.policy)
        if model.deployment is None and taken not in poor:
            found += [track_record.reason(poor[r]) for r in sorted(poor.keys() - worn)]
        return found

    def _busy(self, place: Placement) -> str:
        """Return which devices fit better than those of ``place``, but are busier."""
        devices = self.fleet.devices_by_id
        found = ((name, devices[name].utilization or 0.0) for name in place.spared)
        return ", ".join(f"{name} ({share:.0%} busy)" for name, share in found)

    def _is_outranked(self, victim: Model, model: Model) -> bool:
        """Whether ``victim`` was never requested and ``model`` has a better priority class."""
        ranks = [priority_class(m, self.policy).rank for m in (victim, model)]
        return victim.traffic.first_request_at is None and ranks[0] > ranks[1]

    def _can_sleep(self, model: Model) -> bool:
        held = model.deployment
        if held is None or len(held.nodes) > 1:
            return False
        status = self.fleet.runtime_on(held.runtime, held.node)
        return status is not None and status.can_sleep
