"""A folder with the name of a declared team is that team's, whatever is in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from modelium.config import Orchestration
from modelium.errors import DropRejected
from modelium.intake.drop_zone import MARK, DropZone
from modelium.intake.repository import ModelRepository
from modelium.intake.watcher import arriving
from modelium.models import DropState
from tests.modelium.analysis.files import llama_folder
from tests.modelium.intake.zone import QUIET_S, RESCAN_S, ManualClock, Zone

TEAMS = ("lab", "prod")


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(
        config=Orchestration(
            model_repository=tmp_path / "repository",
            incoming_directory=tmp_path / "incoming",
            rejected_directory=tmp_path / "rejected",
        ),
        teams=TEAMS,
    )


@pytest.fixture
def zone(tmp_path: Path) -> DropZone:
    made = DropZone(folder=tmp_path, teams=TEAMS)
    made.make()
    return made


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "weights").write_text("w")
    (folder / "weights").chmod(0o644)
    folder.chmod(0o755)
    return folder


def test_a_drop_is_told_by_its_place(zone: DropZone) -> None:
    top, own = zone.folder / "m", zone.folder / "lab" / "m"
    assert zone.holds(top) and zone.holds(own)
    assert (zone.team_of(top), zone.team_of(own)) == (None, "lab")
    assert (zone.place(top), zone.place(own)) == (zone.folder, zone.folder / "lab")
    for nowhere in ("lab", "other/m", "lab/m/part", "lab/prod/m"):
        assert not zone.holds(zone.folder / nowhere), nowhere
    assert zone.team_of(zone.folder / "lab") is None
    assert zone.team_of(zone.folder / "m" / "lab" / "x") is None
    for outside in (Path("/elsewhere/lab/m"), zone.folder / "lab" / ".." / "m"):
        assert not zone.contains(outside) and zone.team_of(outside) is None, outside
    assert zone.place(Path("/elsewhere/lab/m")) == zone.folder
    assert zone.is_part(zone.folder) and zone.is_part(zone.folder / "prod")
    assert not zone.is_part(zone.folder / "m")


def test_what_lies_deep_in_a_teams_folder_is_the_teams(zone: DropZone) -> None:
    upload = zone.folder / "lab" / ".upload" / "m"
    assert zone.contains(upload) and not zone.holds(upload)
    assert zone.team_of(upload) == "lab"
    assert zone.place(upload) == zone.folder / "lab"
    assert zone.team_of(zone.folder / "lab" / "prod" / "m") == "lab"


def test_a_team_may_be_declared_and_removed_while_it_runs(zone: DropZone) -> None:
    zone.declare(["new"])
    assert zone.holds(zone.folder / "new" / "m")
    assert zone.holds(zone.folder / "lab") and not zone.holds(zone.folder / "lab" / "m")


def test_missing_folders_are_made_and_others_stay(
    zone: DropZone, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(zone.folder / "prod")
    (zone.folder / "prod").write_text("a file")
    shutil.rmtree(zone.folder / "lab")
    zone.make()
    assert (zone.folder / "lab").is_dir() and (zone.folder / "prod").read_text() == "a file"
    (zone.folder / "x").symlink_to(zone.folder / "nowhere")
    zone.declare(["x"])
    zone.make()
    assert (zone.folder / "x").is_symlink() and not (zone.folder / "nowhere").exists()
    assert caplog.text == ""


def test_a_folder_that_cannot_be_made_is_told_once_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    zone = DropZone(folder=tmp_path / "away", teams=TEAMS)
    for made in (False, False, True, False):
        if made:
            zone.folder.mkdir()
        elif zone.folder.exists():
            shutil.rmtree(zone.folder)
        zone.make()
        assert (zone.folder / "lab" / MARK).exists() is made
    assert caplog.text.count("the drop folder of team lab cannot be made: ") == 2
    assert caplog.text.count("the drop folder of team prod cannot be made: ") == 2


def test_a_teams_folder_is_marked_and_a_model_in_its_place_is_not(zone: DropZone) -> None:
    (zone.folder / "prod" / MARK).unlink()
    (zone.folder / "lab" / MARK).unlink()
    (zone.folder / "prod" / "config.json").touch()
    zone.make()
    assert sorted(os.listdir(zone.folder / "prod")) == ["config.json"]
    assert (zone.folder / "lab" / MARK).read_bytes() == b""
    (zone.folder / "lab" / MARK).write_text("kept")
    zone.make()
    assert (zone.folder / "lab" / MARK).read_text() == "kept"


def test_the_folder_of_a_team_that_is_gone_is_told_by_its_mark(zone: DropZone) -> None:
    lab, prod = zone.folder / "lab", zone.folder / "prod"
    zone.declare(["prod"])
    why = (
        "lab in the drop zone is marked as the folder of a team, and no such team is declared; "
        "declare it, or move what lies there to where it belongs and delete the folder (if it is "
        "a model, delete .modelium-team in it)"
    )
    for path in (lab, lab / "m", lab / "deep" / "m"):
        assert zone.orphaned(path) == why
    for path in (prod, prod / "m", zone.folder, zone.folder / "m", zone.folder.parent / "lab"):
        assert zone.orphaned(path) == ""
    lab.rename(prod / "lab")
    assert zone.orphaned(prod / "lab") == zone.orphaned(prod / "lab" / "m")
    assert zone.orphaned(prod / "lab").startswith("prod/lab in the drop zone is marked")
    (prod / "lab" / MARK).unlink()
    assert zone.orphaned(prod / "lab") == ""
    odd = zone.folder / "a\nb"
    odd.mkdir()
    (odd / MARK).touch()
    assert zone.orphaned(odd).startswith("a?b in the drop zone")


async def test_the_folder_of_a_team_that_is_gone_is_reported_once_and_never_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    zone = Zone(tmp_path, clock=clock, teams=TEAMS)
    zone.zone.make()
    llama_folder(tmp_path / "lab" / "m")
    await zone.watcher.poll()
    zone.zone.declare(["prod"])
    for _ in range(4):
        clock.now += RESCAN_S
        await zone.watcher.poll()
    assert zone.reported == [] and zone.lacking == []
    (note,) = zone.pending.all()
    assert (note.path, note.name, note.state) == (str(tmp_path / "lab"), "lab", "incomplete")
    assert (note.rule, note.reason) == ("team-folder", zone.zone.orphaned(tmp_path / "lab"))
    assert caplog.text.count("lab in the drop zone is marked") == 1
    (tmp_path / "lab" / MARK).unlink()
    (tmp_path / "lab" / "m").rename(tmp_path / "m")
    (tmp_path / "lab").rmdir()
    clock.now += RESCAN_S
    await zone.watcher.poll()
    assert [drop.name for drop in zone.pending.all()] == ["m"]


async def test_a_team_that_is_declared_again_has_its_drops(tmp_path: Path) -> None:
    clock = ManualClock()
    zone = Zone(tmp_path, clock=clock, teams=TEAMS)
    zone.zone.make()
    drop = llama_folder(tmp_path / "lab" / "m")
    zone.zone.declare(["prod"])
    await zone.watcher.poll()
    assert zone.pending.at(tmp_path / "lab") is not None
    zone.zone.declare(TEAMS)
    own = Zone(tmp_path, clock=clock, teams=TEAMS, of="lab", pending=zone.pending)
    await own.watcher.poll()
    assert [note.path for note in zone.pending.all()] == [str(drop)]


def test_a_drop_returns_to_the_folder_of_a_team_that_is_gone(repository: ModelRepository) -> None:
    drop = model(repository.incoming / "lab" / "m")
    repository.stage(drop, name=None)
    repository.zone.declare(["prod"])
    assert repository.recover() == [drop]
    assert (drop / "weights").read_text() == "w"


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "pytorch_model.bin", "modelium.toml", "a.plan"]
)
def test_a_model_in_place_of_a_teams_folder_is_not_taken_apart(zone: DropZone, name: str) -> None:
    folder = zone.folder / "lab"
    for part in ("unet", "m.gguf", ".hidden", "README.md"):
        (folder / part).mkdir()
        assert zone.closed(folder) == ""
    (folder / name).write_text("{}")
    assert zone.closed(folder) == (
        f"lab in the drop zone is the folder for drops of team lab, and holds files of a model "
        f"({name}); put them into a folder of their own in it, as lab/MODEL"
    )
    assert zone.closed(zone.folder) == "", "files of the drop zone itself are drops"


def test_what_has_a_teams_name_and_is_no_folder_is_closed(zone: DropZone) -> None:
    folder = zone.folder / "lab"
    shutil.rmtree(folder)
    assert zone.closed(folder).startswith("the drop folder of team lab cannot be read: ")
    for made in (folder.touch, lambda: folder.symlink_to(zone.folder / "prod")):
        made()
        assert zone.closed(folder) == (
            "lab in the drop zone has the name of a team, and is no folder; remove it, and the "
            "team's folder is made"
        )
        folder.unlink()


def test_a_path_into_a_teams_folder_does_not_follow_a_swap(zone: DropZone, tmp_path: Path) -> None:
    folder, secret = zone.folder / "lab", tmp_path / "secret"
    (folder / "m").touch()
    secret.mkdir()
    with zone.entered(folder) as inside:
        os.rename(folder, tmp_path / "aside")
        folder.symlink_to(secret)
        assert sorted(os.listdir(inside)) == [MARK, "m"]
    with pytest.raises(OSError), zone.entered(folder):
        pass
    with zone.entered(zone.folder) as own:
        assert own == zone.folder


def test_a_teams_drop_is_moved_and_returns_to_its_folder(repository: ModelRepository) -> None:
    drop = model(repository.incoming / "lab" / "m")
    staged = repository.stage(drop, name=None)
    assert staged.moved and not drop.exists()
    repository.give_back(staged)
    assert (drop / "weights").read_text() == "w"
    staged = repository.stage(drop, name=None)
    assert repository.recover() == [drop], "a restart, too, returns it to its team"


def test_a_teams_drop_returns_though_its_folder_is_gone(repository: ModelRepository) -> None:
    drop = model(repository.incoming / "lab" / "m")
    repository.stage(drop, name=None)
    shutil.rmtree(drop.parent)
    assert repository.recover() == [drop]
    assert (drop / "weights").read_text() == "w"


def test_nothing_is_returned_through_a_link(repository: ModelRepository, tmp_path: Path) -> None:
    drop, secret = model(repository.incoming / "lab" / "m"), tmp_path / "secret"
    secret.mkdir()
    repository.stage(drop, name=None)
    shutil.rmtree(drop.parent)
    drop.parent.symlink_to(secret)
    assert repository.recover() == []
    assert os.listdir(secret) == []
    drop.parent.unlink()
    assert repository.recover() == [drop], "once the link is gone"


def test_a_teams_drop_that_cannot_be_staged_is_rejected_with_its_team(
    repository: ModelRepository,
) -> None:
    drop = model(repository.incoming / "lab" / "m")
    kept = repository.reject_unstaged(drop, DropRejected("bad", reason="name"))
    assert kept is not None and (kept / "m" / "weights").exists()
    assert repository.find_rejected("m")[1]["team"] == "lab"
    elsewhere = model(repository.incoming / "other" / "m")
    assert repository.reject_unstaged(elsewhere, DropRejected("bad", reason="name")) is None


def test_parts_of_copies_are_deleted_in_teams_folders_and_not_through_links(
    repository: ModelRepository, tmp_path: Path
) -> None:
    part = repository.incoming / "lab" / ".modelium-copying-1"
    part.mkdir()
    secret = tmp_path / "secret" / ".modelium-copying-1"
    secret.mkdir(parents=True)
    shutil.rmtree(repository.incoming / "prod")
    (repository.incoming / "prod").symlink_to(secret.parent)
    repository.recover()
    assert not part.exists() and secret.exists()


async def test_the_drop_zones_watcher_leaves_teams_folders_alone(tmp_path: Path) -> None:
    clock = ManualClock()
    zone = Zone(tmp_path, clock=clock, teams=TEAMS)
    llama_folder(tmp_path / "lab" / "m")
    other = llama_folder(tmp_path / "m")
    await zone.watcher.poll()
    clock.now += QUIET_S
    await zone.watcher.poll()
    assert zone.reported == [other]
    assert [drop.name for drop in zone.pending.all()] == ["m"]


async def test_what_becomes_a_teams_folder_is_no_drop_any_more(tmp_path: Path) -> None:
    clock = ManualClock()
    zone = Zone(tmp_path, clock=clock)
    llama_folder(tmp_path / "lab" / "m")
    await zone.watcher.poll()
    assert [drop.name for drop in zone.pending.all()] == ["lab"]
    zone.zone.declare(TEAMS)
    zone.watcher.touch("lab")
    await zone.watcher.poll()
    clock.now += QUIET_S
    await zone.watcher.poll()
    assert zone.reported == [] and zone.lacking == []
    assert zone.pending.all() == []


async def test_what_a_teams_watcher_says_of_its_folder_stays(tmp_path: Path) -> None:
    zone = Zone(tmp_path, clock=ManualClock())
    llama_folder(tmp_path / "lab" / "m")
    await zone.watcher.poll()
    zone.zone.declare(TEAMS)
    note = arriving(tmp_path / "lab", since=1.0).model_copy(update={"rule": "team-folder"})
    zone.pending.note(note)
    zone.watcher.touch("lab")
    await zone.watcher.poll()
    assert zone.pending.all() == [note]


async def test_from_a_closed_folder_nothing_is_taken_until_it_is_put_right(tmp_path: Path) -> None:
    clock = ManualClock()
    zone = Zone(tmp_path, clock=clock, teams=TEAMS, of="lab")
    drop = llama_folder(tmp_path / "lab" / "m")
    (tmp_path / "lab" / "config.json").write_text("{}")
    zone.watcher.touch("m")
    await zone.watcher.poll()
    clock.now += QUIET_S
    await zone.watcher.poll()
    assert zone.reported == [] and zone.lacking == []
    closed = zone.pending.at(tmp_path / "lab")
    assert closed is not None and closed.state is DropState.INCOMPLETE
    assert closed.rule == "team-folder" and "lab/MODEL" in closed.reason
    (tmp_path / "lab" / "config.json").unlink()
    clock.now += RESCAN_S
    await zone.watcher.poll()
    assert zone.reported == [drop]
    assert zone.pending.at(tmp_path / "lab") is None


async def test_a_closed_folder_that_is_emptied_is_closed_no_more(tmp_path: Path) -> None:
    clock = ManualClock()
    zone = Zone(tmp_path, clock=clock, teams=TEAMS, of="lab")
    llama_folder(tmp_path / "lab")
    await zone.watcher.poll()
    clock.now += QUIET_S
    await zone.watcher.poll()
    assert zone.pending.at(tmp_path / "lab") is not None
    for file in (tmp_path / "lab").iterdir():
        file.unlink()
    clock.now += RESCAN_S
    await zone.watcher.poll()
    assert zone.pending.all() == []
