"""The deterministic planner: good enough to run alone, quick enough for a request's path.

`RulePlanner.plan` is pure: a snapshot and a policy go in, a plan comes out. `docs/planner.md`
states the rules.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agents.rules.keep_value import keep_value, loss_per_byte
from agents.rules.placement import Board, MayLeave, anybody, nobody
from agents.rules.plan_builder import Draft, Outcome
from agents.rules.prewarming import expected
from agents.rules.ranking import is_starving, priority_class, rank
from agents.rules.sizing import Estimate, Sizer
from modelium import analysis
from modelium.lifecycle import TRANSITIONS, ModelState
from modelium.models import (
    Fleet,
    Model,
    Plan,
    Priority,
    Trigger,
)
from modelium.models.advice import RULES_ALONE, Advice, advised
from modelium.models.load_time import load_seconds
from modelium.policy import Policy
from modelium.policy.eligibility import (
    is_pinned,
    over_cap,
    should_load,
    should_unload,
)
from modelium.ports import Question

S = ModelState
PREWARMS_PER_PLAN = 2
"""Loads nobody waits for stay few, so that they do not hold up the ones that somebody does."""

TIE = 1.25
"""Values of keeping models that differ by less than this factor are a tie: the estimate of a value
is no better than that, so that advice may decide."""

PUSHES_PER_PLAN = 1
"""Starving models that may push in per plan: a long queue must not sweep the devices clean."""

PRESENT = frozenset({S.LOADING, S.READY})


Elsewhere = Callable[[Question, Fleet, Policy, Advice], Awaitable[Plan | None]]
"""Has a plan made in another place; ``None``: it is to be made here."""


class RulePlanner:
    """`ports.Brain` by rules alone."""

    def __init__(
        self, *, estimate: Estimate = analysis.estimate, elsewhere: Elsewhere | None = None
    ) -> None:
        """Take what it leans on.

        Args:
            estimate: what one device needs; default `modelium.analysis.estimate`.
            elsewhere: is asked first to plan for a whole fleet, with the estimate that it has.
        """
        self._sizer = Sizer(estimate=estimate)
        self._elsewhere = elsewhere

    async def advise(self, question: Question, fleet: Fleet, policy: Policy) -> Advice | None:
        """Need no advice."""
        return None

    async def decide(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice | None = None
    ) -> Plan:
        """Do as `plan`, where the event loop does not wait for it."""
        given = question, fleet, policy, advice or RULES_ALONE
        if self._elsewhere is not None and question.model is None:
            plan = await self._elsewhere(*given)
            if plan is not None:
                return plan
        return await asyncio.to_thread(self.plan, *given)

    def plan(
        self,
        question: Question,
        fleet: Fleet,
        policy: Policy,
        advice: Advice = RULES_ALONE,
    ) -> Plan:
        """Answer ``question``; `modelium.policy.validate` accepts every answer.

        Never raises for a model that it cannot place.

        ``advice`` decides where the rules have no strong opinion; whatever it says, the plan
        stays one that is accepted.
        """
        now = question.now or fleet.at
        fleet = advised(fleet, advice)
        tips = dict.fromkeys(advice.keep, TIE) | dict.fromkeys(advice.evict, 1 / TIE)

        def value(model: Model) -> float:
            return keep_value(model, now=now) * tips.get(model.name, 1.0)

        draft = Draft(
            question=question,
            fleet=fleet,
            policy=policy,
            now=now,
            board=Board(fleet=fleet, policy=policy, now=now, value=value),
            sizer=self._sizer,
            advice=advice,
        )
        if question.model is not None:
            self._one(draft, question.model)
        else:
            self._all(draft)
        return draft.plan()

    # --- one model --------------------------------------------------------------------

    def _one(self, draft: Draft, name: str) -> None:
        model = draft.fleet.models_by_name.get(name)
        if model is None:
            draft.reason = f"no model {name} is registered"
            return
        settled = self._no_load(draft, model)
        if settled:
            draft.keep(model, settled)
            return
        trigger = draft.question.trigger
        if not draft.judge(model):
            return
        if trigger is Trigger.INGEST:
            self._ahead(draft, model)
            outcome = draft.load(model, may_leave=draft.idled_out)
        else:
            outcome = draft.load(model, may_leave=anybody)
        if outcome is Outcome.NO_ROOM:
            draft.queue(model)

    def _no_load(self, draft: Draft, model: Model) -> str:
        """Why ``model`` stays as it is, though it was asked for; empty where it should load."""
        policy, trigger, now = draft.policy, draft.question.trigger, draft.now
        if not policy.enabled:
            return "orchestration is off: observing only"
        if model.state in PRESENT:
            where = ", ".join(model.deployment.devices) if model.deployment else "a device"
            return f"it is already {model.state} on {where}"
        if S.LOADING not in TRANSITIONS[model.state]:
            return f"it is {model.state}; asked again once that is over"
        if trigger is Trigger.OPERATOR:
            return ""
        if model.retry_at is not None and model.retry_at > now:
            return (
                f"backing off for {model.retry_at - now:.0f} s after {model.failures} failed loads"
            )
        if trigger is Trigger.DEMAND:
            waiting = max(1, model.traffic.pending)
            if waiting <= policy.pending_requests_threshold:
                return (
                    f"{waiting} requests wait; loaded when more than "
                    f"{policy.pending_requests_threshold} do"
                )
        elif trigger is Trigger.INGEST and model.state is S.UNLOADED and model.evicted_at:
            return "it was evicted: a request or an operator brings it back, not its folder"
        return ""

    def _ahead(self, draft: Draft, model: Model) -> None:
        """Set aside the places of those that wait with a better rank than a newcomer."""
        mine = self._rank(draft, model)
        others = [
            other
            for other in draft.fleet.models
            if other.state in (S.QUEUED, S.ANALYZED)
            and other.name != model.name
            and self._waits(draft, other)
            and self._rank(draft, other) < mine
        ]
        for other in sorted(others, key=lambda m: self._rank(draft, m)):
            draft.set_aside(other)

    def _rank(self, draft: Draft, model: Model) -> tuple[float, int, float, float, str]:
        return rank(model, draft.policy, now=draft.now, value=draft.board.value(model))

    def _waits(self, draft: Draft, model: Model) -> bool:
        if model.retry_at is not None and model.retry_at > draft.now:
            return False
        return model.profile is not None

    # --- the whole fleet --------------------------------------------------------------

    def _all(self, draft: Draft) -> None:
        if not draft.policy.enabled:
            draft.reason = "orchestration is off: observing only"
            return
        self._unload_idle(draft)
        self._relieve(draft)
        self._load_always(draft)
        self._dequeue(draft)
        self._prewarm(draft)

    def _unload_idle(self, draft: Draft) -> None:
        for model in draft.fleet.models:
            if should_unload(model, draft.policy, now=draft.now) and draft.acts_on(model):
                idle = model.idle_s(draft.now)
                draft.unload(
                    model,
                    f"idle for {idle:.0f} s (limit {draft.policy.auto_unload_after_s:g} s) with "
                    f"{model.traffic.qps_last_hour:.3g} requests/s in the last hour",
                )

    def _relieve(self, draft: Draft) -> None:
        """Evict from devices whose measured use is over the cap, least valuable first."""
        models = draft.fleet.models_by_name
        for device in draft.fleet.devices:
            if not over_cap(device, draft.policy):
                continue
            held = draft.fleet.bookings_by_device.get(device.id, ())
            cap = device.total_bytes * draft.policy.max_gpu_memory_utilization
            excess = device.total_bytes - device.free_bytes - cap
            excess -= sum(b.resident_bytes for b in held if b.model in draft.board.leaving)
            excess -= sum(b.resident_bytes for b in held if b.releasing)
            able = [
                (models[b.model], b.resident_bytes)
                for b in held
                if b.model in models and not b.releasing and b.resident_bytes > 0
            ]
            able = [(m, b) for m, b in able if self._relievable(draft, m)]
            able.sort(key=lambda a: loss_per_byte(draft.board.value(a[0]), a[1]))
            for model, resident in able:
                if excess <= 0:
                    break
                draft.unload(
                    model,
                    f"{device.id} is {1 - device.free_bytes / device.total_bytes:.0%} full, over "
                    f"the {draft.policy.max_gpu_memory_utilization:.0%} that models may take, and "
                    f"this one is worth least there: idle for {model.idle_s(draft.now):.0f} s",
                )
                excess -= resident

    def _relievable(self, draft: Draft, model: Model) -> bool:
        return (
            model.state is S.READY
            and model.name not in draft.board.leaving
            and not model.traffic.in_flight
            and not model.traffic.pending
            and not is_pinned(model, draft.policy)
            and draft.acts_on(model)
        )

    def _load_always(self, draft: Draft) -> None:
        for name in sorted(draft.policy.always_loaded):
            model = draft.fleet.models_by_name.get(name)
            if model is None or S.LOADING not in TRANSITIONS[model.state]:
                continue
            if not self._waits(draft, model) or not draft.judge(model, quiet=True):
                continue
            outcome = draft.load(model, may_leave=anybody, why="always loaded")
            if outcome is Outcome.NO_ROOM and model.state is not S.QUEUED:
                draft.queue(model)

    def _dequeue(self, draft: Draft) -> None:
        """Load what waits, best rank first; what is behind may fill holes that the first cannot."""
        waiting = [
            model
            for model in draft.fleet.models
            if (model.state is S.QUEUED or self._in_demand(draft, model))
            and model.name not in draft.touched
            and self._waits(draft, model)
        ]
        wished = {name: i for i, name in enumerate(draft.advice.order)}

        def turn(model: Model) -> tuple[float, int, int, tuple[float, int, float, float, str]]:
            # Advice orders wishes within a class: urgent ones go first, in the rules' order.
            whole = self._rank(draft, model)
            place = wished.get(model.name, len(wished)) if whole[0] else 0
            return (whole[0], whole[1], place, whole)

        waiting.sort(key=turn)
        pushing = PUSHES_PER_PLAN
        yielding = [self._yielding(draft, priority.rank) for priority in Priority]
        for model in waiting:
            if not self._cool(draft, model) or not draft.judge(model, quiet=True):
                continue
            if should_load(model, draft.policy):
                outcome = draft.load(model, may_leave=anybody)
            elif pushing and is_starving(model, now=draft.now):
                pushing -= 1
                outcome = draft.load(model, may_leave=anybody)
            else:
                mine = priority_class(model, draft.policy).rank
                outcome = draft.load(model, may_leave=yielding[mine])
            if outcome is Outcome.NO_ROOM and model.state in (S.ANALYZED, S.UNLOADED, S.FAILED):
                draft.queue(model)

    def _yielding(self, draft: Draft, rank: int) -> MayLeave:
        """Who makes room for a queued model of class ``rank``: lower classes, and who idled out."""
        names = {
            model.name
            for model in draft.fleet.models
            if model.state is S.READY
            and (priority_class(model, draft.policy).rank > rank or draft.idled_out(model))
        }
        return (lambda model: model.name in names) if names else nobody

    def _prewarm(self, draft: Draft) -> None:
        """Load what is about to be asked for into memory that nobody else wants."""
        soon = []
        for model in draft.fleet.models:
            if model.state is S.UNLOADED and model.name not in draft.touched:
                seconds = load_seconds(model)
                chance, why = expected(model.traffic, now=draft.now, load_s=seconds)
                if chance and self._waits(draft, model):
                    soon.append((-chance * seconds, model.name, model, why))
        soon.sort(key=lambda s: s[:2])
        for _, _, model, why in soon[:PREWARMS_PER_PLAN]:
            self._warm(draft, model, why)
        for name in draft.advice.prewarm[:PREWARMS_PER_PLAN]:
            wished = draft.fleet.models_by_name.get(name)
            if (
                wished is not None
                and wished.state is S.UNLOADED
                and name not in draft.touched
                and self._waits(draft, wished)
            ):
                self._warm(draft, wished, "advised")

    def _warm(self, draft: Draft, model: Model, why: str) -> None:
        if self._cool(draft, model) and draft.judge(model, quiet=True):
            draft.load(model, may_leave=nobody, why=f"prewarmed: {why}")

    def _in_demand(self, draft: Draft, model: Model) -> bool:
        return model.state in (S.ANALYZED, S.UNLOADED, S.FAILED, S.SLEEPING) and should_load(
            model, draft.policy
        )

    def _cool(self, draft: Draft, model: Model) -> bool:
        """Whether an evicted model may come back without being asked for."""
        return (
            model.evicted_at is None
            or draft.now - model.evicted_at >= draft.policy.reload_cooldown_s
            or should_load(model, draft.policy)
        )
