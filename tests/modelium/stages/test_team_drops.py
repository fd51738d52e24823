"""What is dropped into a team's folder belongs to that team, and to nobody else's models."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from modelium.config import Config
from modelium.errors import InputError
from modelium.intake.drop_zone import DropZone
from modelium.models import Priority, RuntimeName, Wishes
from modelium.stages.ingest import ingest
from modelium.stages.ownership import check_team
from tests.modelium.conftest import World
from tests.modelium.stages.rows import with_files
from tests.modelium.teams import declare, drop, refused
from tests.samples import risky_onnx, tiny_onnx

HIGH, MEDIUM, LOW = Priority.HIGH, Priority.MEDIUM, Priority.LOW


class Noted:
    """Runs steps, and notes their names; ``then``: what happens after the first."""

    def __init__(self, world: World, then: Callable[[], object] = lambda: None) -> None:
        self.names: list[str] = []
        self._world = world
        self._then = then

    async def __call__(
        self, name: str, step: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any
    ) -> Any:
        done = await self._world.steps(name, step, *args, **kwargs)
        self.names.append(name)
        if len(self.names) == 1:
            self._then()
        return done


async def test_a_drop_in_a_teams_folder_is_the_teams(world: World) -> None:
    declare(world)
    report = await drop(world, "lab/tiny")
    assert report.outcome == "registered"
    assert not (world.incoming / "lab" / "tiny").exists(), "it is moved as any drop"
    model = world.store.model("tiny")
    assert (model.team, model.priority, model.priority_ceiling) == ("lab", LOW, MEDIUM)
    assert Path(model.path) == world.services.repository.published / "tiny"
    assert model.wishes is None


async def test_nobody_ingests_the_drop_of_a_team_for_another_one(world: World) -> None:
    declare(world)
    with pytest.raises(InputError, match="belongs to team lab, and cannot be ingested for prod"):
        await drop(world, "lab/tiny", team="prod")
    assert (world.incoming / "lab" / "tiny" / "model.onnx").exists()
    await drop(world, "lab/tiny", team="lab", priority_ceiling="low")
    model = world.store.model("tiny")
    assert (model.team, model.priority_ceiling) == ("lab", LOW)


async def test_an_upload_inside_a_teams_folder_is_the_teams(world: World) -> None:
    declare(world)
    with pytest.raises(InputError, match="belongs to team lab, and cannot be ingested for prod"):
        await drop(world, "lab/.upload/tiny", team="prod")
    assert (await drop(world, "lab/.upload/tiny")).outcome == "registered"
    assert world.store.model("tiny").team == "lab"
    await drop(world, "prod/theirs")
    assert (await drop(world, "lab/.upload/theirs", weight=2.0)).outcome == "rejected"
    assert (world.store.model("theirs").team, world.store.model("theirs").version) == ("prod", 1)


async def test_an_upload_inside_the_drop_zone_takes_a_model_from_nobody(world: World) -> None:
    declare(world)
    await drop(world, "lab/tiny")
    assert (await drop(world, ".upload/tiny", weight=2.0)).outcome == "registered"
    assert (world.store.model("tiny").version, world.store.model("tiny").team) == (2, "lab")


async def test_a_folder_of_a_team_is_no_drop(world: World) -> None:
    declare(world)
    tiny_onnx(world.incoming / "lab" / "tiny")
    with pytest.raises(InputError, match="lab is the folder for drops of a team"):
        await world.launcher.ingest(path=str(world.incoming / "lab"))
    assert (world.incoming / "lab" / "tiny" / "model.onnx").exists()


async def test_nothing_is_taken_from_the_folder_of_a_team_that_is_gone(world: World) -> None:
    declare(world)
    tiny_onnx(world.incoming / "lab" / "tiny")
    world.services.repository.zone.declare(["prod"])
    for path in ("lab", "lab/tiny"):
        with pytest.raises(InputError, match="lab in the drop zone is marked as the folder of a"):
            await world.launcher.ingest(path=str(world.incoming / path))
    assert (world.incoming / "lab" / "tiny" / "model.onnx").exists()
    assert world.store.view()[1] == ()


async def test_from_a_closed_folder_nothing_is_taken(world: World) -> None:
    declare(world)
    (world.incoming / "lab" / "config.json").write_text("{}")
    report = await drop(world, "lab/unet")
    assert report.outcome == "incomplete" and "lab/MODEL" in report.reason
    assert (world.incoming / "lab" / "unet" / "model.onnx").exists()


@pytest.mark.parametrize("owner", ["prod", None])
async def test_a_team_cannot_replace_the_models_of_others(world: World, owner: str | None) -> None:
    declare(world)
    await drop(world, f"{owner}/tiny" if owner else "tiny")
    report = await drop(world, "lab/tiny", weight=2.0)
    whose = f"team {owner}" if owner else "no team"
    assert report.outcome == "rejected"
    assert report.reason == (
        f"tiny belongs to {whose}, and team lab cannot replace it; drop it under another name, or "
        "ask an operator"
    )
    model = world.store.model("tiny")
    assert (model.version, model.team) == (1, owner)
    (kept,) = (world.rejected).iterdir()
    reason = json.loads((kept / "reason.json").read_text())
    assert (reason["reason"], reason["team"]) == ("team", "lab")
    assert (kept / "tiny" / "model.onnx").exists()


async def test_a_team_cannot_take_a_name_that_is_meant_for_others(world: World) -> None:
    declare(world, models={"tiny": {"team": "prod"}, "open": {"max_tokens": 7}})
    assert (await drop(world, "lab/tiny")).outcome == "rejected"
    assert (await drop(world, "lab/open")).outcome == "registered"
    assert world.store.model("open").team == "lab"


@pytest.mark.parametrize(
    "config",
    [
        {"models": {"tiny": {"approvals": ["pickle"]}}},
        {"models": {"tiny": {"pinned": True}}},
        {"models": {"tiny": {"priority": "low"}}},
        {"always_loaded": ["tiny"]},
    ],
)
async def test_a_team_cannot_take_a_name_that_was_given_something(
    world: World, config: dict[str, Any]
) -> None:
    if "always_loaded" in config:
        own = world.services.config.orchestration.model_dump(exclude_unset=True)
        config = {"orchestration": {**own, "policies": config}}
    declare(world, **config)
    report = await drop(world, "lab/tiny")
    assert (report.outcome, report.reason) == (
        "rejected",
        "tiny belongs to no team, and team lab cannot replace it; drop it under another name, or "
        "ask an operator",
    )
    assert (await drop(world, "tiny")).outcome == "registered"


async def test_what_a_key_of_a_team_has_ingested_is_the_teams(world: World) -> None:
    declare(world)
    elsewhere = world.incoming.parent / "elsewhere" / "tiny"
    tiny_onnx(elsewhere)
    for path in (elsewhere, world.incoming / "lab" / "mine"):
        tiny_onnx(path)
        report = await world.launcher.ingest(path=str(path), bound="lab")
        assert report.outcome == "registered"
        assert world.store.model(path.name).team == "lab"
    assert (elsewhere / "model.onnx").exists() and not (world.incoming / "lab" / "mine").exists()


async def test_a_key_of_a_team_takes_a_name_from_nobody_who_was_first(world: World) -> None:
    declare(world)
    elsewhere = world.incoming.parent / "elsewhere" / "tiny"
    tiny_onnx(elsewhere, weight=2.0)
    steps = Noted(world, then=lambda: with_files(world, team="prod"))
    report = await ingest(
        world.services, path=str(elsewhere), name="tiny", bound="lab", steps=steps
    )
    assert (report.outcome, report.details["rule"], steps.names) == ("rejected", "team", ["stage"])
    report = await ingest(
        world.services, path=str(elsewhere), name="tiny", bound="lab", steps=Noted(world)
    )
    assert (report.outcome, report.details["rule"]) == ("rejected", "team")
    model = world.store.model("tiny")
    assert (model.version, model.team) == (1, "prod")


@pytest.mark.parametrize(
    ("path", "whose"),
    [
        ("incoming/prod/secret", "team prod"),
        ("incoming/lab/../prod/secret", "team prod"),
        ("incoming/lab/link", "team prod"),
        ("elsewhere/link", "team prod"),
        ("incoming/ops", "no team"),
        ("incoming", "no team"),
        (".", "no team"),
        ("published/theirs", "team prod"),
        ("published/theirs/model.onnx", "team prod"),
        ("published/../repository/theirs", "team prod"),
        ("published/unknown", "no team"),
        ("published", "no team"),
        ("rejected/risky/risky", "team prod"),
        ("rejected/risky", "no team"),
        ("trash/risky", "team prod"),
        ("trash", "no team"),
    ],
)
async def test_a_key_of_a_team_takes_no_drop_and_no_files_of_others(
    world: World, path: str, whose: str
) -> None:
    declare(world)
    await drop(world, "prod/theirs")
    await refused(world, "prod/risky")
    repository = world.services.repository
    entry = repository.trash.folder / "risky@1-x"
    tiny_onnx(entry / "risky")
    note = {"model": "risky", "version": 1, "at": 1.0, "by": "x", "team": "prod", "purge": False}
    (entry / "removed.json").write_text(json.dumps(note))
    for place in ("prod/secret", "ops"):
        tiny_onnx(world.incoming / place)
    tiny_onnx(repository.published / "unknown")
    (world.incoming.parent / "elsewhere").mkdir()
    for link in (world.incoming / "lab", world.incoming.parent / "elsewhere"):
        (link / "link").symlink_to(world.incoming / "prod" / "secret")
    root, _, rest = path.partition("/")
    roots = {
        "incoming": world.incoming,
        "published": repository.published,
        "rejected": world.rejected,
        "trash": entry,
    }
    source = f"{roots.get(root, world.incoming.parent / root)}/{rest}".rstrip("/")
    before = sorted(world.incoming.parent.rglob("*"))
    with pytest.raises(InputError) as told:
        await world.launcher.ingest(path=source, name="mine", bound="lab")
    assert str(told.value) == (
        f"{source} belongs to {whose}, and a key of team lab cannot have it ingested; drop it into "
        "the team's folder, or ask an operator"
    )
    assert sorted(world.incoming.parent.rglob("*")) == before


async def test_a_key_of_a_team_takes_what_was_refused_or_removed_of_its_own(world: World) -> None:
    declare(world)
    await refused(world, "lab/risky")
    kept = world.rejected / "risky" / "risky"
    (kept / "weights.pkl").unlink()
    report = await world.launcher.ingest(path=str(kept), bound="lab")
    assert report.outcome == "registered"
    again = world.services.repository.published / "risky"
    report = await world.launcher.ingest(path=str(again), bound="lab")
    assert report.outcome == "unchanged"


async def test_where_no_teams_are_declared_a_key_with_a_team_takes_any_drop(world: World) -> None:
    report = await drop(world, "tiny", bound="prod")
    assert (report.outcome, world.store.model("tiny").team) == ("registered", "prod")


async def test_a_team_replaces_its_own_models(world: World) -> None:
    declare(world)
    await drop(world, "lab/tiny")
    assert (await drop(world, "lab/tiny", weight=2.0)).outcome == "registered"
    assert world.store.model("tiny").version == 2


async def test_a_later_drop_that_names_no_team_takes_a_model_from_nobody(world: World) -> None:
    declare(world)
    await drop(world, "lab/tiny", priority_ceiling="low")
    await drop(world, "tiny", weight=2.0)
    model = world.store.model("tiny")
    assert (model.version, model.team, model.priority_ceiling) == (2, "lab", LOW)
    elsewhere = world.incoming.parent / "elsewhere" / "tiny"
    tiny_onnx(elsewhere, weight=3.0)
    await world.launcher.ingest(path=str(elsewhere), team="prod")
    assert world.store.model("tiny").team == "prod", "an operator may give it to another team"


async def test_a_later_drop_by_path_leaves_a_model_to_its_team(world: World) -> None:
    declare(world)
    await drop(world, "lab/tiny", priority_ceiling="low")
    elsewhere = world.incoming.parent / "elsewhere" / "tiny"
    tiny_onnx(elsewhere, weight=3.0)
    await world.launcher.ingest(path=str(elsewhere))
    model = world.store.model("tiny")
    assert (model.version, model.team, model.priority_ceiling) == (2, "lab", LOW)


async def test_a_version_that_is_put_into_the_repository_leaves_a_model_to_its_team(
    world: World,
) -> None:
    declare(world)
    await drop(world, "lab/tiny", priority_ceiling="low")
    folder = world.services.repository.published / "tiny@2"
    tiny_onnx(folder, weight=2.0)
    await world.launcher.ingest(path=str(folder))
    model = world.store.model("tiny")
    assert (model.version, model.team, model.priority_ceiling) == (2, "lab", LOW)
    assert world.store.rules.asked()["tiny"] == {"team": "lab", "priority_ceiling": "low"}


async def test_a_later_drop_without_a_note_leaves_a_model_to_the_team_that_one_named(
    world: World,
) -> None:
    declare(world, teams={"prod": {"claimable": True}, "lab": {"claimable": True}})
    await drop(world, "tiny", note='team = "prod"')
    await drop(world, "tiny", weight=2.0)
    assert world.store.model("tiny").team == "prod"
    await drop(world, "tiny", weight=3.0, note='team = "lab"')
    model = world.store.model("tiny")
    assert (model.version, model.team) == (3, "prod"), "nor does another note take it"


async def test_a_drop_that_may_not_replace_a_model_is_not_staged(world: World) -> None:
    declare(world)
    await drop(world, "prod/tiny")
    tiny_onnx(world.incoming / "lab" / "tiny", weight=2.0)
    steps = Noted(world)
    report = await ingest(world.services, path=str(world.incoming / "lab" / "tiny"), steps=steps)
    assert (report.outcome, report.details["rule"]) == ("rejected", "team")
    assert steps.names == [], "it is not copied either"


async def test_whose_a_model_is_may_change_while_a_drop_is_staged(world: World) -> None:
    declare(world)
    tiny_onnx(world.incoming / "lab" / "tiny", weight=2.0)

    steps = Noted(world, then=lambda: with_files(world, team="prod"))
    report = await ingest(world.services, path=str(world.incoming / "lab" / "tiny"), steps=steps)
    assert (report.outcome, report.details["rule"]) == ("rejected", "team")
    assert steps.names == ["stage"]
    model = world.store.model("tiny")
    assert (model.version, model.team) == (1, "prod")


@pytest.mark.parametrize(
    ("team", "said"),
    [
        (
            "other",
            "team other is not declared; declared are lab, prod: name one of them, or add it",
        ),
        ("../prod", "'../prod' is no name of a team: use up to 128 letters, digits,"),
        ("", "'' is no name of a team"),
    ],
)
async def test_an_ingest_for_an_unknown_team_is_refused(world: World, team: str, said: str) -> None:
    declare(world)
    with pytest.raises(InputError) as told:
        await drop(world, "tiny", team=team)
    assert str(told.value).startswith(said)
    assert (world.incoming / "tiny" / "model.onnx").exists()


def test_a_team_is_known_by_any_part_of_the_configuration() -> None:
    declared = {
        "teams": {"lab": {}},
        "models": {"m": {"team": "owner"}},
        "orchestration": {"policies": {"high_priority_teams": ["vip"]}},
    }
    config = Config.model_validate(declared)
    for team in ("lab", "owner", "vip", None):
        check_team(config, team)
    with pytest.raises(InputError, match="team other is not declared"):
        check_team(config, "other")
    check_team(Config(), "other")


async def test_a_rejected_drop_that_is_approved_is_still_the_teams(world: World) -> None:
    declare(world)
    folder = world.incoming / "lab" / "tiny"
    risky_onnx(folder, "weights.pkl")
    assert (await world.launcher.ingest(path=str(folder))).outcome == "rejected"
    (kept,) = world.rejected.iterdir()
    assert json.loads((kept / "reason.json").read_text())["team"] == "lab"


NOTE = 'team = "prod"\npriority = "high"\ncontext = 2048\nruntime = "ray_serve"\nwishes = "Now."\n'


async def test_the_wishes_in_a_note_are_stored_with_the_version(world: World) -> None:
    declare(world)
    await drop(world, "tiny", note=NOTE + "colour = 1\n")
    model = world.store.model("tiny")
    assert model.wishes == Wishes(
        team="prod",
        priority=HIGH,
        context=2048,
        runtime=RuntimeName.RAY_SERVE,
        text="Now.",
        problems=(
            "unknown keys: 'colour'; known keys are team, priority, context, runtime, wishes",
        ),
    )
    assert (model.team, model.priority) == (None, LOW), "a note alone gives neither"
    await drop(world, "tiny", weight=2.0)
    assert world.store.model("tiny").wishes is None, "each version has its own"


async def test_a_note_names_a_team_that_may_be_claimed(world: World) -> None:
    declare(world, teams={"prod": {"claimable": True}})
    await drop(world, "tiny", note=NOTE)
    model = world.store.model("tiny")
    assert (model.team, model.priority, model.priority_ceiling) == ("prod", MEDIUM, MEDIUM)


async def test_a_note_does_not_take_a_model_from_the_team_of_its_folder(world: World) -> None:
    declare(world, teams={"prod": {"claimable": True}})
    await drop(world, "lab/tiny", note=NOTE)
    model = world.store.model("tiny")
    assert (model.team, model.priority) == ("lab", MEDIUM), "up to the ceiling of its own team"


async def test_a_note_in_the_repository_counts_as_one_in_a_drop(world: World) -> None:
    declare(world, teams={"prod": {"claimable": True}})
    folder = world.services.repository.published / "tiny"
    tiny_onnx(folder)
    (folder / "modelium.toml").write_text(NOTE)
    await world.launcher.ingest(path=str(folder))
    model = world.store.model("tiny")
    assert model.team == "prod" and model.wishes is not None
    assert world.store.rules.asked()["tiny"] == {"wished_team": "prod", "wished_priority": "high"}


async def test_a_broken_note_never_loses_the_drop(world: World) -> None:
    declare(world)
    report = await drop(world, "lab/tiny", note="team = [")
    assert report.outcome == "registered"
    wishes = world.store.model("tiny").wishes
    assert wishes is not None and "is not valid TOML" in wishes.problems[0]


async def test_a_reload_declares_teams_in_the_drop_zone(world: World) -> None:
    zone: DropZone = world.services.repository.zone
    assert zone.teams == frozenset()
    declare(world)
    assert zone.teams == {"lab", "prod"}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"team": "prod"}, "its team stays lab; set models.tiny.team in the configuration"),
        ({"priority_ceiling": "low"}, "its priority_ceiling stays medium; set models.tiny."),
    ],
)
async def test_what_is_asked_for_content_that_is_registered_already_is_refused(
    world: World, tmp_path: Path, given: dict[str, str], why: str
) -> None:
    declare(world)
    await drop(world, "lab/tiny")
    published = Path(world.store.model("tiny").path)
    tiny_onnx(tmp_path / "elsewhere" / "tiny")
    for path in (tmp_path / "elsewhere" / "tiny", published):
        with pytest.raises(InputError, match=f"tiny is registered with this content, and {why}"):
            await world.launcher.ingest(path=str(path), **given)
        assert (path / "model.onnx").exists()
        has = {"team": "lab", "priority_ceiling": "medium"}
        same = await world.launcher.ingest(path=str(path), **{key: has[key] for key in given})
        assert same.outcome == "unchanged"
    model = world.store.model("tiny")
    assert (model.version, model.team, model.priority_ceiling) == (1, "lab", MEDIUM)


async def test_a_folder_of_the_repository_is_registered_as_asked(world: World) -> None:
    declare(world)
    folder = world.services.repository.published / "tiny"
    tiny_onnx(folder)
    await world.launcher.ingest(path=str(folder), team="prod", priority_ceiling="low")
    model = world.store.model("tiny")
    assert (model.team, model.priority_ceiling) == ("prod", LOW)
