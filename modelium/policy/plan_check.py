"""The validator's pass over one plan, action by action (no I/O here)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import assert_never

from modelium.errors import InputError
from modelium.lifecycle import SETTLED, TRANSITIONS, ModelState
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
    RuntimeName,
    Trigger,
    Unload,
    Violation,
)
from modelium.policy.eligibility import (
    is_pinned,
    may_queue,
    over_cap,
    should_load,
    should_unload,
    too_young,
)
from modelium.policy.load_checks import device_faults, least_bytes, profile_faults, setting_faults
from modelium.policy.memory_budget import available_bytes
from modelium.policy.policy import Policy


class PlanRejected(InputError):
    """The policy forbids the plan."""

    reason = "policy"

    def __init__(self, violations: Sequence[Violation]) -> None:
        """Keep all violations; the message joins them."""
        super().__init__("; ".join(v.message for v in violations))
        self.violations = tuple(violations)


def validate(plan: Plan, fleet: Fleet, policy: Policy, *, now: float) -> list[Violation]:
    """All violations of ``plan`` against ``fleet``, in the order of its actions; empty: allowed.

    Actions are judged in order, each against the fleet as the actions before it leave it: an
    unload gives its memory to the loads behind it, not to those in front. An action that breaks
    a rule still counts for the ones behind it, so that one fault is not reported twice.
    ``now``: seconds since the epoch.
    """
    review = Review(plan=plan, fleet=fleet, policy=policy, now=now)
    for action in plan.actions:
        review.judge(action)
    return review.violations


class Review:
    """One pass over a plan: what the actions so far changed, and what they broke.

    ``now``: seconds since the epoch.
    """

    def __init__(self, *, plan: Plan, fleet: Fleet, policy: Policy, now: float) -> None:
        self.violations: list[Violation] = []
        self._plan = plan
        self._fleet = fleet
        self._policy = policy
        self._now = now
        self._times = Counter(action.model for action in plan.actions)
        self._told: set[str] = set()
        self._leaving: set[str] = set()
        self._booked: dict[str, list[Booking]] = {}

    def judge(self, action: Action) -> None:
        """Add what ``action`` breaks to `violations`, and count it for the actions behind it."""
        model = self._fleet.models_by_name.get(action.model)
        if model is None:
            self._break(
                "unknown-model",
                action.model,
                "no model of that name is registered; see `modelium ls`",
            )
            return
        if self._times[model.name] > 1 and model.name not in self._told:
            self._told.add(model.name)
            self._break("two-actions", model.name, "a plan may hold one action per model")
        match action:
            case Load():
                self._load(action, model)
            case Unload():
                self._unload(action, model)
            case Queue():
                self._queue(action, model)
            case Reject():
                if model.state not in SETTLED:
                    self._break(
                        "illegal-state",
                        model.name,
                        f"it is {model.state}; only a model that is not running can be rejected",
                    )
            case Keep():
                pass
            case _:
                assert_never(action)

    def _break(self, rule: str, subject: str, message: str) -> None:
        self.violations.append(
            Violation(rule=rule, subject=subject, message=f"{subject}: {message}")
        )

    def _asked_by_operator(self, model: Model) -> bool:
        return self._plan.trigger is Trigger.OPERATOR and self._plan.subject == model.name

    # --- queue ------------------------------------------------------------------------

    def _queue(self, action: Queue, model: Model) -> None:
        self._priority(action, model)
        if not may_queue(model):
            self._break("illegal-state", model.name, f"it is {model.state} and cannot be queued")

    def _priority(self, action: Load | Queue, model: Model) -> None:
        if action.priority.rank < model.priority_ceiling.rank:
            whose = f"of team {model.team}" if model.team else "without a team"
            self._break(
                "priority",
                model.name,
                f"priority {action.priority} is not allowed for this model {whose}; "
                f"the operator's ceiling is {model.priority_ceiling}",
            )

    # --- unload -----------------------------------------------------------------------

    def _unload(self, action: Unload, model: Model) -> None:
        """Judge an unload; the operator may cut a model's stay short, but not pass its pin.

        A pin holds the model, not its files: a newer version may take the place of an older one.
        """
        self._acting(model)
        name, asked = model.name, self._asked_by_operator(model)
        loaded = model.state in (ModelState.READY, ModelState.SLEEPING)
        halted = model.state is ModelState.FAILED and model.deployment is not None
        if not (loaded or halted or (asked and model.state is ModelState.LOADING)):
            self._break(
                "illegal-state",
                name,
                f"it is {model.state}; only a ready or sleeping model can be unloaded",
            )
        if is_pinned(model, self._policy) and not (asked and model.outdated):
            self._break(
                "pinned", name, "it is pinned or always loaded; unpin it before unloading it"
            )
        self._leaving.add(name)
        if model.deployment is not None:
            self._runtime_acts(model.deployment.runtime, name)
            if action.sleep:
                self._sleep(model, model.deployment.runtime)
        elif action.sleep:
            self._break("sleep", name, "only a model that is loaded can sleep")
        if asked:
            return
        traffic = model.traffic
        if traffic.in_flight or traffic.pending:
            self._break(
                "in-flight",
                name,
                f"{traffic.in_flight} requests are in flight and {traffic.pending} wait; "
                "only an idle model may be unloaded",
            )
        if model.state is not ModelState.READY or self._may_leave(model):
            return
        if too_young(model, self._policy, now=self._now):
            self._break(
                "too-young",
                name,
                "it became ready too short ago; a model stays at least "
                f"{self._policy.min_residency_s:g} s",
            )
        if not self._policy.enable_model_swapping:
            self._break(
                "swap-disabled",
                name,
                "enable_model_swapping is off: it may only be unloaded after "
                f"{self._policy.auto_unload_after_s:g} idle seconds",
            )

    def _sleep(self, model: Model, runtime: RuntimeName) -> None:
        status = self._fleet.runtimes_by_name.get(runtime)
        if model.state is not ModelState.READY:
            self._break("sleep", model.name, f"it is {model.state}; only a ready model can sleep")
        if status is None or not status.can_sleep:
            self._break("sleep", model.name, f"{runtime} cannot let models sleep; unload it")

    def _may_leave(self, model: Model) -> bool:
        """Whether it may go for reasons of its own, not to make room for another model."""
        if should_unload(model, self._policy, now=self._now):
            return True
        devices = model.deployment.devices if model.deployment else ()
        known = self._fleet.devices_by_id
        return any(d in known and over_cap(known[d], self._policy) for d in devices)

    # --- load -------------------------------------------------------------------------

    def _load(self, action: Load, model: Model) -> None:
        self._acting(model)
        self._priority(action, model)
        self._may_come(model)
        self._runtime_acts(action.runtime, model.name)
        status = self._fleet.runtimes_by_name.get(action.runtime)
        if status is not None and status.enabled and not status.healthy:
            self._break(
                "runtime-unavailable",
                model.name,
                f"{action.runtime} does not answer now ({status.detail or 'no detail'})",
            )
        for rule, message in (
            *profile_faults(action, model, self._policy),
            *setting_faults(action, self._policy),
            *device_faults(action, model, self._fleet),
        ):
            self._break(rule, model.name, message)
        self._memory(action, model)

    def _may_come(self, model: Model) -> None:
        """State, back-off and cool-down."""
        policy, trigger = self._policy, self._plan.trigger
        if ModelState.LOADING not in TRANSITIONS[model.state]:
            self._break("illegal-state", model.name, f"it is {model.state} and cannot be loaded")
        if trigger is Trigger.OPERATOR:
            return
        if model.retry_at is not None and model.retry_at > self._now:
            self._break(
                "backing-off",
                model.name,
                f"its load failed {model.failures} times; not before "
                f"{model.retry_at - self._now:.0f} s from now, except by an operator",
            )
        if (
            trigger is Trigger.INGEST
            and model.state is ModelState.UNLOADED
            and model.evicted_at is not None
        ):
            self._break(
                "evicted",
                model.name,
                "it was evicted; its folder alone does not bring it back, a request or an "
                "operator does",
            )
        if (
            trigger in (Trigger.SWEEP, Trigger.REVIEW)
            and model.evicted_at is not None
            and self._now - model.evicted_at < policy.reload_cooldown_s
            and not is_pinned(model, policy)
            and not should_load(model, policy)
        ):
            self._break(
                "cooldown",
                model.name,
                f"it was evicted less than {policy.reload_cooldown_s:g} s ago; only a request "
                "or an operator may bring it back so soon",
            )

    def _acting(self, model: Model) -> None:
        if not self._policy.enabled:
            self._break(
                "disabled", model.name, "orchestration.enabled is off: nothing may be acted on"
            )

    def _runtime_acts(self, runtime: RuntimeName, model: str) -> None:
        status = self._fleet.runtimes_by_name.get(runtime)
        if not self._policy.rules(runtime).enabled or status is None or not status.enabled:
            able = sorted(
                r.name
                for r in self._fleet.runtimes
                if r.enabled and self._policy.rules(r.name).enabled
            )
            self._break(
                "unknown-runtime" if status is None else "runtime-disabled",
                model,
                f"{runtime} is not enabled; enabled: {', '.join(able) or 'none'}",
            )

    def _memory(self, action: Load, model: Model) -> None:
        """Hold the reservation against ledger and driver, after the plan's earlier actions."""
        cap = self._policy.max_gpu_memory_utilization
        for device_id, reserve in action.reserve.items():
            device = self._fleet.devices_by_id.get(device_id)
            if device is None:
                continue
            least = least_bytes(action, model) if device.kind == "gpu" else 0
            if reserve < least:
                self._break(
                    "reserve",
                    model.name,
                    f"{reserve} bytes on {device_id} are less than its weights need: {least}",
                )
            mine = self._booked.setdefault(device_id, [])
            held = (*self._fleet.bookings_by_device.get(device_id, ()), *mine)
            room = available_bytes(device, held, cap=cap, after=self._leaving)
            if reserve > device.total_bytes * cap:
                self._break(
                    "over-cap",
                    model.name,
                    f"{reserve} bytes are more than the {cap:.0%} of {device_id} that models may "
                    f"take ({int(device.total_bytes * cap)})",
                )
            elif reserve > room:
                self._break(
                    "does-not-fit",
                    model.name,
                    f"{reserve} bytes do not fit on {device_id}: {room} are left after the "
                    "actions before it",
                )
            mine.append(Booking(model=model.name, device=device_id, bytes=max(0, reserve)))
