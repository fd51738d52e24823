"""The validator: one pass over a plan, action by action (no I/O here)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import assert_never

from modelium.errors import InputError
from modelium.lifecycle import SETTLED
from modelium.models import (
    Action,
    Booking,
    Fleet,
    Keep,
    Load,
    Model,
    Plan,
    Queue,
    Reject,
    Trigger,
    Unload,
    Violation,
)
from modelium.policy.action_checks import Fault, gib, priority_faults
from modelium.policy.departures import departure_faults
from modelium.policy.eligibility import may_queue
from modelium.policy.load_checks import kv_share_faults, least_bytes, load_faults
from modelium.policy.memory_budget import available_bytes
from modelium.policy.policy import Policy
from modelium.policy.quotas import quota_faults, rules_for
from modelium.policy.unload_checks import unload_faults


class PlanRejected(InputError):
    """The policy forbids the plan."""

    reason = "policy"

    def __init__(self, violations: Sequence[Violation]) -> None:
        """Keep all violations; the message joins them."""
        super().__init__("; ".join(v.message for v in violations))
        self.violations = tuple(violations)


def validate(plan: Plan, fleet: Fleet, policy: Policy, *, now: float) -> list[Violation]:
    """Return all violations of ``plan`` against ``fleet``, in the order of its actions.

    An empty list means that the plan is allowed. Each action is checked against the fleet as the
    actions before it leave it: an unload frees memory for the loads after it, not for those
    before. An action that breaks a rule still counts for the ones after it, so that one fault is
    not reported twice. Departures from the rules come last. ``now``: seconds since the epoch.
    """
    check = PlanCheck(plan=plan, fleet=fleet, policy=policy, now=now)
    for action in plan.actions:
        check.add(action)
    return [*check.violations, *departure_faults(plan, fleet, policy, now=now)]


class PlanCheck:
    """One pass over a plan: the violations so far, and the effects of the actions so far."""

    def __init__(self, *, plan: Plan, fleet: Fleet, policy: Policy, now: float) -> None:
        """``now``: seconds since the epoch."""
        self.violations: list[Violation] = []
        self._plan = plan
        self._fleet = fleet
        self._policy = policy
        self._now = now
        self._counts = Counter(action.model for action in plan.actions)
        self._reported: set[str] = set()
        """Models whose several actions are reported already."""
        self._leaving: set[str] = set()
        self._booked: dict[str, list[Booking]] = {}

    def add(self, action: Action) -> None:
        """Add what ``action`` breaks to `violations`, and its effects to the fleet."""
        model = self._fleet.models_by_name.get(action.model)
        if model is None:
            unknown = "no model of that name is registered; `modelium ls` lists the models"
            self._break(action.model, [("unknown-model", unknown)])
            return
        count = self._counts[model.name]
        if count > 1 and model.name not in self._reported:
            self._reported.add(model.name)
            several = f"the plan holds {count} actions for it; one per model is allowed"
            self._break(model.name, [("two-actions", several)])
        match action:
            case Load():
                self._break(
                    model.name,
                    load_faults(
                        action,
                        model,
                        self._fleet,
                        self._policy,
                        trigger=self._plan.trigger,
                        now=self._now,
                    ),
                )
                self._break(model.name, self._quota_faults(action, model))
                self._break(model.name, self._memory_faults(action, model))
            case Unload():
                self._unload(action, model)
            case Queue():
                self._break(model.name, _queue_faults(action, model))
                if model.quarantined and self._plan.trigger is not Trigger.OPERATOR:
                    self._break(model.name, [("quarantined", model.reason)])
            case Reject():
                self._break(model.name, _reject_faults(model))
            case Keep():
                pass
            case _:
                assert_never(action)

    def _break(self, model: str, faults: Iterable[Fault]) -> None:
        self.violations.extend(
            Violation(rule=rule, subject=model, message=f"{model}: {message}")
            for rule, message in faults
        )

    def _unload(self, action: Unload, model: Model) -> None:
        plan = self._plan
        faults = unload_faults(
            action,
            model,
            self._fleet,
            self._policy,
            by_operator=plan.trigger is Trigger.OPERATOR and plan.subject == model.name,
            now=self._now,
        )
        self._break(model.name, faults)
        self._leaving.add(model.name)

    def _quota_faults(self, action: Load, model: Model) -> Iterator[Fault]:
        plan = self._plan
        return quota_faults(
            model,
            sum(action.reserve.values()),
            self._fleet,
            self._policy,
            rules_for(model, self._fleet, self._policy, trigger=plan.trigger, subject=plan.subject),
            planned=[booking for booked in self._booked.values() for booking in booked],
            leaving=self._leaving,
        )

    def _memory_faults(self, action: Load, model: Model) -> Iterator[Fault]:
        """Yield reservations that ledger or driver have no room for, and book them all.

        The earlier actions of the plan count as carried out.
        """
        cap = self._policy.max_gpu_memory_utilization
        for device_id, reserve in action.reserve.items():
            device = self._fleet.devices_by_id.get(device_id)
            if device is None:
                continue
            least = least_bytes(action, model) if device.kind == "gpu" else 0
            if reserve < least:
                yield (
                    "reserve",
                    f"reserves {gib(reserve)} on {device_id}; its weights alone take {gib(least)}",
                )
            planned = self._booked.setdefault(device_id, [])
            booked = (*self._fleet.bookings_by_device.get(device_id, ()), *planned)
            room = available_bytes(device, booked, cap=cap, after=self._leaving)
            if reserve > device.total_bytes * cap:
                yield (
                    "over-cap",
                    f"reserves {gib(reserve)} on {device_id}; max_gpu_memory_utilization "
                    f"{cap:g} allows {gib(device.total_bytes * cap)}",
                )
            elif reserve > room:
                yield (
                    "does-not-fit",
                    f"reserves {gib(reserve)} on {device_id}; {gib(room)} are available after the "
                    "plan's earlier actions",
                )
            yield from kv_share_faults(action, device_id, room, self._policy)
            planned.append(Booking(model=model.name, device=device_id, bytes=max(0, reserve)))


def _queue_faults(action: Queue, model: Model) -> Iterator[Fault]:
    yield from priority_faults(action, model)
    if model.removal is not None:
        yield ("being-removed", f"it is being removed; {model.removal.by} asked for it")
    elif not may_queue(model):
        yield ("illegal-state", f"it is {model.state}, and cannot be queued from that state")


def _reject_faults(model: Model) -> Iterator[Fault]:
    if model.state not in SETTLED:
        yield ("illegal-state", f"it is {model.state}; only a model without memory can be rejected")
