"""Team and priority come from the configuration, else from the drop, within the ceiling."""

from __future__ import annotations

from typing import Any

import pytest

from modelium.config import Config
from modelium.models import Priority, Wishes
from modelium.stages.standing import Standing, apply_standings, standing, with_wishes
from tests.modelium.conftest import World
from tests.modelium.stages.rows import registered
from tests.samples import tiny_onnx

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
        registered(world, name, asked={})
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


TEAMS = {
    "lab": {},
    "prod": {"claimable": True},
    "open": {"claimable": True, "priority_ceiling": "high"},
    "small": {"priority_ceiling": "low"},
}


@pytest.mark.parametrize(
    ("entry", "asked", "expected"),
    [
        (None, {"team": "lab"}, ("lab", LOW, MEDIUM)),
        (None, {"team": "prod"}, ("prod", MEDIUM, HIGH)),
        (None, {"team": "small"}, ("small", LOW, LOW)),
        (None, {"team": "unknown"}, ("unknown", LOW, HIGH)),
        (None, {"team": "open", "priority_ceiling": "medium"}, ("open", LOW, MEDIUM)),
        (None, {"team": "lab", "priority_ceiling": "low"}, ("lab", LOW, LOW)),
        ({}, {"team": "lab", "priority_ceiling": "low"}, ("lab", LOW, MEDIUM)),
        ({"priority_ceiling": "high"}, {"team": "lab"}, ("lab", LOW, HIGH)),
        ({"priority": "high"}, {"team": "lab"}, ("lab", HIGH, HIGH)),
        ({"priority": "low"}, {"team": "lab"}, ("lab", LOW, MEDIUM)),
        ({"priority": "high", "priority_ceiling": "low"}, {"team": "lab"}, ("lab", LOW, LOW)),
    ],
)
def test_a_declared_team_has_a_ceiling_below_the_operators_word_for_a_model(
    entry: dict[str, Any] | None, asked: dict[str, str], expected: tuple[Any, ...]
) -> None:
    found = standing(of_teams(entry), "m", asked)
    assert (found.team, found.priority, found.ceiling) == expected


@pytest.mark.parametrize(
    ("entry", "asked", "expected"),
    [
        (None, {}, (None, LOW)),
        (None, {"wished_priority": "high"}, (None, LOW)),
        (None, {"wished_priority": "high", "priority_ceiling": "medium"}, (None, MEDIUM)),
        (None, {"wished_priority": "medium", "priority_ceiling": "high"}, (None, MEDIUM)),
        ({}, {"wished_priority": "high", "priority_ceiling": "high"}, (None, LOW)),
        ({"priority_ceiling": "medium"}, {"wished_priority": "high"}, (None, MEDIUM)),
        ({"priority_ceiling": "high"}, {"wished_priority": "high"}, (None, HIGH)),
        (
            {"priority": "low", "priority_ceiling": "high"},
            {"wished_priority": "high"},
            (None, LOW),
        ),
        (None, {"team": "lab", "wished_priority": "high"}, ("lab", MEDIUM)),
        (None, {"team": "small", "wished_priority": "high"}, ("small", LOW)),
        (None, {"team": "open", "wished_priority": "high"}, ("open", HIGH)),
        (None, {"team": "prod", "wished_priority": "low"}, ("prod", MEDIUM)),
        (None, {"team": "unknown", "wished_priority": "high"}, ("unknown", LOW)),
        (None, {"wished_team": "lab", "wished_priority": "high"}, (None, LOW)),
        (None, {"wished_team": "unknown", "wished_priority": "high"}, (None, LOW)),
        (None, {"wished_team": "open", "wished_priority": "high"}, ("open", HIGH)),
        (None, {"wished_team": "prod"}, ("prod", MEDIUM)),
        (None, {"team": "lab", "wished_team": "open"}, ("lab", LOW)),
        ({"team": "lab"}, {"wished_team": "open"}, ("lab", LOW)),
        (None, {"team": None, "wished_team": None, "wished_priority": None}, (None, LOW)),
    ],
)
def test_a_note_counts_where_somebody_answers_for_it(
    entry: dict[str, Any] | None, asked: dict[str, str | None], expected: tuple[Any, ...]
) -> None:
    found = standing(of_teams(entry), "m", asked)
    assert (found.team, found.priority) == expected


def of_teams(entry: dict[str, Any] | None) -> Config:
    return Config.model_validate(
        {
            "models": {} if entry is None else {"m": entry},
            "teams": TEAMS,
            "orchestration": {"policies": {"high_priority_teams": ["prod"]}},
        }
    )


def test_what_a_note_says_is_kept_beside_what_was_asked() -> None:
    asked = {"team": "lab"}
    assert with_wishes(asked, None) == asked
    assert with_wishes(asked, Wishes(team="prod")) == {
        "team": "lab",
        "wished_team": "prod",
        "wished_priority": None,
    }
    assert with_wishes({}, Wishes(priority=HIGH)) == {
        "wished_team": None,
        "wished_priority": "high",
    }


async def test_an_adopted_model_loses_what_the_configuration_says_no_more(world: World) -> None:
    fields = world.services.config.model_dump(exclude_unset=True)
    entry = {"team": "a", "priority": "high", "pinned": True}
    world.services.configure(Config.model_validate({**fields, "models": {"tiny": entry}}))
    folder = world.services.repository.published / "tiny"
    tiny_onnx(folder)
    await world.launcher.ingest(path=str(folder))
    assert world.store.model("tiny").pinned
    world.services.configure(Config.model_validate(fields))
    assert await apply_standings(world.services) == ["tiny"]
    model = world.store.model("tiny")
    assert (model.team, model.priority, model.pinned) == (None, "low", False)
