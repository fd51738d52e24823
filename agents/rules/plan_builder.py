"""A plan in the making: the actions so far, the board they leave, and what was weighed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from enum import Enum

from agents.rules.placement import Board, MayLeave, Placement
from agents.rules.ranking import priority_class
from agents.rules.sizing import Option, Sizer, sorts
from modelium.lifecycle import SETTLED, ModelState
from modelium.models import (
    GIB,
    Action,
    Candidate,
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
from modelium.policy import Policy
from modelium.policy.eligibility import may_queue, needed_approvals, should_unload
from modelium.ports import Question

AUTHOR = "rules"
CANDIDATES_KEPT = 16
"""Alternatives shown per plan: enough to explain, few enough to store."""


class Outcome(Enum):
    """How an attempt to load ended."""

    PLACED = "placed"
    NO_ROOM = "no room"
    REJECTED = "rejected"


class Draft:
    """Collects actions; each is counted on the board at once. One per plan."""

    def __init__(
        self,
        *,
        question: Question,
        fleet: Fleet,
        policy: Policy,
        now: float,
        board: Board,
        sizer: Sizer,
        advice: Advice,
    ) -> None:
        """Start empty; ``now`` in seconds since the epoch."""
        self.question = question
        self.advice = advice
        self.fleet = fleet
        self.policy = policy
        self.now = now
        self.board = board
        self.touched: set[str] = set()
        self.reason = ""
        self._sizer = sizer
        self._actions: list[Action] = []
        self._candidates: list[Candidate] = []

    def plan(self) -> Plan:
        """Return the finished plan."""
        return Plan(
            author=AUTHOR,
            trigger=self.question.trigger,
            subject=self.question.model,
            actions=tuple(self._actions),
            candidates=tuple(self._candidates),
            reason=self.reason or "; ".join(f"{a.model}: {a.reason}" for a in self._actions[:4]),
            revision=self.fleet.revision,
        )

    # --- what may be done ---------------------------------------------------------------

    def acts_on(self, model: Model) -> bool:
        """Whether the runtime that holds ``model`` may be told to unload it."""
        held = model.deployment
        if held is None:
            return True
        status = self.fleet.runtimes_by_name.get(held.runtime)
        return status is not None and status.enabled and self.policy.rules(held.runtime).enabled

    def idled_out(self, model: Model) -> bool:
        """Whether ``model`` could be unloaded for idling alone."""
        return should_unload(model, self.policy, now=self.now)

    def judge(self, model: Model, *, quiet: bool = False) -> bool:
        """Whether ``model`` can run at all; otherwise reject it (``quiet``: leave it as it is)."""
        profile = model.profile
        if profile is None:
            reason = "it is not analyzed yet"
            if not quiet:
                self.keep(model, reason)
            return False
        missing = needed_approvals(profile, self.policy) - model.approvals
        if missing:
            reason = (
                f"it needs an operator's approval for {', '.join(sorted(missing))}: "
                f"`modelium approve {model.name}`"
            )
        elif not any(
            s.supported and self.policy.rules(s.runtime).enabled for s in profile.runtimes
        ):
            reason = "no enabled runtime can serve it (" + (
                "; ".join(
                    f"{s.runtime}: {s.reason if not s.supported else 'not enabled'}"
                    for s in profile.runtimes
                )
                or "none was found able"
            )
            reason += ")"
        else:
            return True
        if not quiet:
            self.reject(model, reason)
        return False

    # --- actions ------------------------------------------------------------------------

    def keep(self, model: Model, reason: str) -> None:
        """Leave ``model`` as it is."""
        self._add(Keep(model=model.name, reason=reason))

    def reject(self, model: Model, reason: str) -> None:
        """Turn ``model`` down; one that holds something is left as it is instead."""
        if model.state in SETTLED:
            self._add(Reject(model=model.name, reason=reason))
        else:
            self.keep(model, reason)

    def unload(
        self, model: Model, reason: str, *, sleep: bool = False, requeue: bool = False
    ) -> None:
        """Take ``model`` out, and off the board."""
        self.board.unload(model)
        self._add(Unload(model=model.name, sleep=sleep, requeue=requeue, reason=reason))

    def queue(self, model: Model) -> None:
        """Put ``model`` in the queue, saying what stands in its way."""
        reason = self._why_no_room(model)
        if not may_queue(model):
            self.keep(model, reason)
            return
        self._add(
            Queue(model=model.name, priority=priority_class(model, self.policy), reason=reason)
        )

    def load(self, model: Model, *, may_leave: MayLeave, why: str = "") -> Outcome:
        """Place ``model``, evicting who ``may_leave`` where nothing else helps.

        In order: as preferred into free memory, as asked for into free memory, with evictions
        (as preferred where that costs no more), with smaller settings into free memory, with
        smaller settings and evictions.
        """
        if not self._fits_somewhere(model):
            return Outcome.REJECTED
        preferred = self._preferred(model)
        best = self._free_place(preferred)
        if best is not None:
            self._commit(model, best, why)
            return Outcome.PLACED
        for smaller in (False, True):
            options = [o for o in self._options(model, smaller=smaller) if self._healthy(o)]
            best = self._free_place(options) or self._swap_place(options, may_leave)
            if best is not None and best.evicts and preferred:
                wished = self._swap_place(preferred, may_leave)
                if wished is not None and wished.loss <= best.loss:
                    best = wished
            if best is not None:
                self._commit(model, best, why)
                return Outcome.PLACED
        return Outcome.NO_ROOM

    def set_aside(self, model: Model) -> None:
        """Count ``model`` on the board if it fits without evictions, without planning its load."""
        place = self._free_place(self._options(model, smaller=False))
        if place is not None:
            self.board.load(model, place)

    # --- inside ---------------------------------------------------------------------------

    def _add(self, action: Action) -> None:
        self.touched.add(action.model)
        self._actions.append(action)

    def _preferred(self, model: Model) -> list[Option]:
        """The ways to load ``model`` as it was found to be best; none where nothing was."""
        if model.preference is None or model.state is ModelState.SLEEPING:
            return []
        found = self._sizer.preferred(model, model.preference, self.fleet, self.policy)
        return [o for o in found if self._healthy(o)]

    def _options(self, model: Model, *, smaller: bool) -> list[Option]:
        options = list(self._sizer.options(model, self.fleet, self.policy, smaller=smaller))
        held = model.deployment
        if model.state is not ModelState.SLEEPING or held is None:
            return options
        # A sleeper wakes where it sleeps, as it was.
        return [
            replace(
                option,
                settings=held.settings,
                sort=replace(
                    option.sort,
                    devices=tuple(d for d in option.sort.devices if d.id in held.devices),
                ),
            )
            for option in options
            if option.runtime is held.runtime
            and option.settings.tensor_parallel_size == len(held.devices)
            and {d.id for d in option.sort.devices} >= set(held.devices)
        ]

    def _healthy(self, option: Option) -> bool:
        return self.fleet.runtimes_by_name[option.runtime].healthy

    def _fits_somewhere(self, model: Model) -> bool:
        """Whether some device could hold it were it empty; else reject it (or say why not)."""
        for smaller in (False, True):
            for _ in self._sizer.options(model, self.fleet, self.policy, smaller=smaller):
                return True
        groups = sorts(self.fleet.devices)
        if not groups:
            return True
        cap = self.policy.max_gpu_memory_utilization
        largest = max(g.total_bytes for g in groups) * cap
        if any(not d.healthy for d in self.fleet.devices):
            return True
        if not any(
            s.supported and s.runtime in self.fleet.runtimes_by_name
            for s in (model.profile.runtimes if model.profile else ())
        ):
            return True
        self.reject(
            model,
            f"it is too large even alone and with the smallest settings: a device offers "
            f"{largest / GIB:.1f} GiB ({cap:.0%} of its memory)",
        )
        return False

    def _free_place(self, options: list[Option]) -> Placement | None:
        """Take the first runtime and degree that fits into free memory, on its best devices."""
        best: Placement | None = None
        for option in options:
            if best is not None and _kind(option) != _kind(best.option):
                break
            place = self.board.place(option)
            if place is None:
                self._lost(option, "no device has that much free")
            elif best is None or place.left < best.left:
                best = place
        return best

    def _swap_place(self, options: list[Option], may_leave: MayLeave) -> Placement | None:
        """Take the option whose evictions cost least."""
        best: Placement | None = None
        for option in options:
            place = self.board.swap(option, may_leave)
            if place is None:
                self._lost(option, "not enough can be evicted")
            elif best is None or place.loss < best.loss:
                best = place
            else:
                self._lost(option, "its evictions would cost more", place)
        return best

    def _lost(self, option: Option, why: str, place: Placement | None = None) -> None:
        if len(self._candidates) < CANDIDATES_KEPT:
            self._candidates.append(
                Candidate(
                    runtime=option.runtime,
                    devices=place.devices if place else tuple(d.id for d in option.sort.devices),
                    evicts=place.evicts if place else (),
                    score=-place.loss if place else None,
                    lost=f"{option.reserve / GIB:.2f} GiB per device: {why}",
                )
            )

    def _commit(self, model: Model, place: Placement, why: str) -> None:
        option = place.option
        held = model.deployment
        if model.state is ModelState.SLEEPING and held is not None:
            # The same devices, in the order that its ranks have.
            place = replace(place, devices=held.devices)
        for name in place.evicts:
            victim = self.fleet.models_by_name[name]
            self.unload(
                victim,
                f"makes room for {model.name}: idle for {victim.idle_s(self.now):.0f} s, worth "
                f"least on {', '.join(place.devices)}",
                sleep=self._can_sleep(victim),
                requeue=self._is_outranked(victim, model),
            )
        self.board.load(model, place)
        self._candidates.append(
            Candidate(
                runtime=option.runtime,
                devices=place.devices,
                evicts=place.evicts,
                score=-place.loss,
            )
        )
        parts = [why] if why else []
        parts.append(
            f"{option.runtime} on {', '.join(place.devices)}, {option.reserve / GIB:.2f} GiB each"
        )
        if place.evicts:
            parts.append(f"after {', '.join(place.evicts)} made room")
        if option.given_up:
            parts.append(f"with {option.given_up}")
        self._add(
            Load(
                model=model.name,
                runtime=option.runtime,
                devices=place.devices,
                settings=option.settings,
                reserve=dict.fromkeys(place.devices, option.reserve),
                priority=priority_class(model, self.policy),
                reason="; ".join(parts),
            )
        )

    def _is_outranked(self, victim: Model, model: Model) -> bool:
        """Whether ``victim`` had its place for its rank alone, and ``model`` has a better one."""
        ranks = [priority_class(m, self.policy).rank for m in (victim, model)]
        return victim.traffic.first_request_at is None and ranks[0] > ranks[1]

    def _can_sleep(self, model: Model) -> bool:
        held = model.deployment
        status = self.fleet.runtimes_by_name.get(held.runtime) if held else None
        return status is not None and status.can_sleep and model.state is ModelState.READY

    def _why_no_room(self, model: Model) -> str:
        """Count what holds the space, so that a person sees what would have to change."""
        stays = Counter(
            self.board.stays_because(m) or "worth more"
            for m in self.fleet.models
            if m.deployment is not None and m.name != model.name
        )
        if not any(d.healthy for d in self.fleet.devices):
            return "no device is healthy"
        silent = [
            f"{status.name} does not answer ({status.detail or 'no detail'})"
            for status in self.fleet.runtimes
            if status.enabled
            and not status.healthy
            and model.profile is not None
            and model.profile.support(status.name).supported
        ]
        if silent:
            return f"it has to wait: {'; '.join(silent)}"
        held = ", ".join(f"{count} {why}" for why, count in sorted(stays.items()))
        return f"nothing fits now; models that hold the space: {held or 'none of ours'}"


def _kind(option: Option) -> tuple[str, int]:
    return (option.runtime, option.settings.tensor_parallel_size)
