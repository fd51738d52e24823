"""Team and priority of models, as the operator set them (no I/O but the store's)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelium.config import Config, ModelEntry
from modelium.models import Priority, Wishes
from modelium.stages.services import Services


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Team and priority of a model, set by the operator; its own files cannot change them."""

    team: str | None
    priority: Priority
    ceiling: Priority
    pinned: bool

    def columns(self) -> dict[str, Any]:
        """Return it as the store has it."""
        return {
            "team": self.team,
            "priority": self.priority.value,
            "priority_ceiling": self.ceiling.value,
            "pinned": self.pinned,
        }


Asked = Mapping[str, str | None]
"""``team`` and ``priority_ceiling`` that came with a drop; ``wished_team`` and ``wished_priority``
of its note."""


def with_wishes(asked: Asked, wishes: Wishes | None) -> Asked:
    """Return ``asked`` with what the note says of team and priority."""
    if wishes is None:
        return asked
    priority = wishes.priority.value if wishes.priority else None
    return {**asked, "wished_team": wishes.team, "wished_priority": priority}


def standing(config: Config, name: str, asked: Asked) -> Standing:
    """Return team and priority of ``name``: from the configuration, else as ``asked``.

    A note names the team where nothing else does and the team allows it. Its priority counts up to
    the ceiling, and only where somebody set one: the operator for the model, or the team.
    """
    entry = config.models.get(name, ModelEntry())
    owner = entry.team or asked.get("team") or claimed_team(config, asked)
    ceiling = _ceiling(config, name, owner, asked)
    important = owner in config.orchestration.policies.high_priority_teams
    priority = entry.priority or (Priority.MEDIUM if important else Priority.LOW)
    bounded = (
        owner in config.teams
        or "priority_ceiling" in entry.model_fields_set
        or (name not in config.models and bool(asked.get("priority_ceiling")))
    )
    wished = asked.get("wished_priority")
    if wished and bounded and entry.priority is None:
        priority = min(priority, Priority(wished), key=lambda p: p.rank)
    if priority.rank < ceiling.rank:
        priority = ceiling
    return Standing(team=owner, priority=priority, ceiling=ceiling, pinned=entry.pinned)


def claimed_team(config: Config, asked: Asked) -> str | None:
    """Return the team that the note names, where that team may be claimed so."""
    wished = asked.get("wished_team")
    entry = config.teams.get(wished or "")
    return wished if entry is not None and entry.claimable else None


def _ceiling(config: Config, name: str, owner: str | None, asked: Asked) -> Priority:
    """Return the model's own ceiling; where the operator set none, at most that of its team."""
    entry = config.models.get(name)
    if entry is not None and "priority_ceiling" in entry.model_fields_set:
        return entry.priority_ceiling
    own = Priority.HIGH if entry is not None else Priority(asked.get("priority_ceiling") or "high")
    team = config.teams.get(owner or "")
    if team is None:
        return own
    important = owner in config.orchestration.policies.high_priority_teams
    of_team = team.priority_ceiling or (Priority.HIGH if important else Priority.MEDIUM)
    if entry is not None and entry.priority is not None:
        # The operator's own word for the model is above that for the team.
        of_team = min(of_team, entry.priority, key=lambda p: p.rank)
    return max(own, of_team, key=lambda p: p.rank)


async def apply_standings(services: Services) -> list[str]:
    """Give registered models what the configuration says now; return the names that changed.

    Only what the configuration says differently than before is changed: what `modelium pin` or a
    plan set since then stays.
    """
    config = services.config
    asked = await services.store.rules.asked()
    wanted = {name: standing(config, name, given).columns() for name, given in asked.items()}
    return await services.store.rules.apply_standings(wanted, named=_named(config))


def _named(config: Config) -> Mapping[str, frozenset[str]]:
    """Return the fields that the configuration sets itself, by model."""
    return {name: frozenset(entry.model_fields_set) for name, entry in config.models.items()}
