"""What a plan may still load for each team (no I/O here)."""

from __future__ import annotations

from collections.abc import Callable

from agents.rules.device_memory import DeviceMemory
from agents.rules.keep_value import loss_per_byte
from modelium.models import Fleet, Model
from modelium.policy import Policy, TeamRules
from modelium.policy.quotas import exceeded, rules_for, spent
from modelium.ports import Question


class TeamQuotas:
    """The quotas of the declared teams, after the plan so far. One per plan."""

    def __init__(
        self, *, question: Question, fleet: Fleet, policy: Policy, memory: DeviceMemory
    ) -> None:
        """``memory``: read, never changed."""
        self._question = question
        self._fleet = fleet
        self._policy = policy
        self._memory = memory
        self._booked: dict[str, int] = {}
        self._of_team: dict[str, int] = {}
        """Team → bytes booked for its models in the snapshot."""
        for booking in fleet.bookings if policy.teams else ():
            self._booked[booking.model] = self._booked.get(booking.model, 0) + booking.bytes
        for name, size in self._booked.items():
            model = fleet.models_by_name.get(name)
            if model is not None and model.team:
                self._of_team[model.team] = self._of_team.get(model.team, 0) + size

    def spent(self, model: Model) -> str:
        """Return that the team of ``model`` has used up its GPU-seconds; empty where it has not.

        It loads nothing more then, and what it has loaded makes room.
        """
        return spent(model.team, self._fleet, self._policy) if self._rules(model) else ""

    def left(self, model: Model) -> int | None:
        """Return the bytes that a load of ``model`` may take on all devices; ``None``: any."""
        rules = self._rules(model)
        if rules is None or rules.memory_bytes is None:
            return None
        return rules.memory_bytes - self._held(model)

    def exceeded(self, model: Model, wanted: int) -> str:
        """Return that a load of ``wanted`` bytes is above the quota; empty where it is not."""
        rules = self._rules(model)
        if rules is None:
            return ""
        return exceeded(model.team or "", self._held(model), wanted, rules)

    def yielding(
        self, model: Model, wanted: int, may_evict: Callable[[Model], bool]
    ) -> tuple[Model, ...]:
        """Return which models of its team make room in the quota for ``wanted`` bytes of ``model``.

        The least value per byte goes first; what turns out not to be needed stays. Empty where
        that does not suffice.
        """
        left = self.left(model)
        if left is None:
            return ()
        able = [
            (loss_per_byte(self._memory.value(other), size), other.name, other, size)
            for other in self._fleet.models
            if other.team == model.team and other.name != model.name and may_evict(other)
            if not self._memory.unevictable_because(other)
            for size in [self.booked(other)]
        ]
        able.sort(key=lambda each: each[:2])
        chosen: list[tuple[Model, int]] = []
        for _, _, other, size in able:
            if left >= wanted:
                break
            chosen.append((other, size))
            left += size
        if left < wanted:
            return ()
        for other, size in sorted(chosen, key=lambda each: -self._memory.value(each[0])):
            if left - size >= wanted:
                chosen.remove((other, size))
                left -= size
        return tuple(other for other, _ in chosen)

    def booked(self, model: Model) -> int:
        """Return the bytes booked for ``model`` on all devices."""
        return self._booked.get(model.name, 0)

    def _rules(self, model: Model) -> TeamRules | None:
        question = self._question
        return rules_for(
            model,
            self._fleet,
            self._policy,
            trigger=question.trigger,
            subject=question.model,
        )

    def _held(self, model: Model) -> int:
        models, team = self._fleet.models_by_name, model.team or ""
        held = self._of_team.get(team, 0)
        for name in {*self._memory.leaving, model.name}:
            if name in models and models[name].team == team:
                held -= self._booked.get(name, 0)
        return held + sum(
            booking.bytes
            for booking in self._memory.added()
            if booking.model in models
            and models[booking.model].team == team
            and booking.model not in self._memory.leaving
            and booking.model != model.name
        )
