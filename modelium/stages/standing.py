"""Team and priority of models, as the operator set them (no I/O but the store's)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelium.config import Config, ModelEntry
from modelium.models import Priority
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
"""``team`` and ``priority_ceiling`` that came with a drop."""


def standing(config: Config, name: str, asked: Asked) -> Standing:
    """Return team and priority of ``name``: from the configuration, else as ``asked``."""
    entry = config.models.get(name, ModelEntry())
    owner = entry.team or asked.get("team")
    ceiling = (
        entry.priority_ceiling
        if name in config.models
        else Priority(asked.get("priority_ceiling") or "high")
    )
    important = owner in config.orchestration.policies.high_priority_teams
    priority = entry.priority or (Priority.MEDIUM if important else Priority.LOW)
    if priority.rank < ceiling.rank:
        priority = ceiling
    return Standing(team=owner, priority=priority, ceiling=ceiling, pinned=entry.pinned)


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
