"""Team and priority come from the configuration, else from the drop, within the ceiling."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.config import Config
from modelium.models import Priority
from modelium.stages.standing import Standing, apply_standings, standing
from tests.modelium.conftest import World
from tests.modelium.stages.rows import registered

HIGH, MEDIUM, LOW = Priority.HIGH, Priority.MEDIUM, Priority.LOW


@pytest.mark.parametrize(
    ("entry", "asked", "expected"),
    [
        (None, {}, (None, LOW, HIGH, False)),
        (None, {"team": "lab"}, ("lab", LOW, HIGH, False)),
        (None, {"team": "prod"}, ("prod", MEDIUM, HIGH, False)),
        (None, {"team": "prod", "priority_ceiling": "medium"}, ("prod", MEDIUM, MEDIUM, False)),
        (None, {"team": "prod", "priority_ceiling": "low"}, ("prod", LOW, LOW, False)),
        (None, {"priority_ceiling": ""}, (None, LOW, HIGH, False)),
        ({}, {"priority_ceiling": "low", "team": "lab"}, ("lab", LOW, HIGH, False)),
        ({"team": "prod"}, {"team": "lab"}, ("prod", MEDIUM, HIGH, False)),
        ({"priority": "high"}, {}, (None, HIGH, HIGH, False)),
        ({"priority": "high", "priority_ceiling": "low"}, {}, (None, LOW, LOW, False)),
        ({"priority": "low", "team": "prod"}, {}, ("prod", LOW, HIGH, False)),
        ({"pinned": True}, {}, (None, LOW, HIGH, True)),
    ],
)
def test_what_a_model_is_given(
    entry: dict[str, Any] | None, asked: dict[str, str], expected: tuple[Any, ...]
) -> None:
    config = Config.model_validate(
        {
            "models": {"other": {"team": "x"}} | ({} if entry is None else {"m": entry}),
            "orchestration": {"policies": {"high_priority_teams": ["prod"]}},
        }
    )
    team, priority, ceiling, pinned = expected
    found = standing(config, "m", asked)
    assert found == Standing(team=team, priority=priority, ceiling=ceiling, pinned=pinned)
    assert found.columns() == {
        "team": team,
        "priority": priority.value,
        "priority_ceiling": ceiling.value,
        "pinned": pinned,
    }


@pytest.mark.unfinished("models without files")
async def test_only_what_is_configured_differently_changes(world: World) -> None:
    for name in ("a", "b"):
        registered(world, name)
        own = standing(world.services.config, name, {})
        world.store.rules.note_standing(name, asked={}, declared=own.columns())
    assert await apply_standings(world.services) == []
    config = world.services.config
    changed = Config.model_validate(
        config.model_dump(exclude_unset=True) | {"models": {"a": {"pinned": True, "team": "lab"}}}
    )
    world.services.config = changed
    assert await apply_standings(world.services) == ["a"]
    assert {m.name: (m.team, m.pinned) for m in world.store.view()[1]} == {
        "a": ("lab", True),
        "b": (None, False),
    }
