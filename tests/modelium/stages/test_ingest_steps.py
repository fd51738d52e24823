"""The steps of an ingest and an adoption: whom they wait for, what is reserved, what is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelium.errors import DropRejected, InputError, Unavailable
from modelium.intake.staging import Staged
from modelium.models import Report, Reservation
from modelium.stages import adopt as adopting
from modelium.stages import ingest as ingesting
from modelium.stages.adopt import adopt, settle_reserved
from modelium.stages.ingest import POLL_S, ingest
from tests.modelium.conftest import World
from tests.modelium.stages.rows import background, events, registered, scripted, with_files
from tests.samples import tiny_onnx

pytestmark = pytest.mark.unfinished("models without files")


def reservation(world: World, version: int = 1, name: str = "tiny", **given: str) -> Reservation:
    path = str(world.services.repository.path(name, version))
    fields = {"path": path, "digest": "sha256:1", **given}
    found = Reservation(model=name, version=version, asked={"team": "lab"}, **fields)  # type: ignore[arg-type]
    world.store.reservations.add(found)
    return found


def onnx(world: World, name: str, *, weight: float = 1.0) -> Path:
    """Write a model into the repository, which nobody has registered."""
    folder = world.services.repository.published / name
    tiny_onnx(folder, weight=weight)
    return folder


# --- drops ----------------------------------------------------------------------------------------


async def test_a_drop_is_told_of_with_its_version(world: World) -> None:
    script = scripted(world)
    tiny_onnx(world.incoming / "drop")
    report = await ingest(
        world.services,
        path=str(world.incoming / "drop"),
        name="tiny",
        team="lab",
        priority_ceiling="low",
    )
    await background(world)
    record = world.store.model("tiny")
    assert report == Report(
        stage="ingest",
        outcome="registered",
        model="tiny",
        reason="version 1 from drop",
        details={"digest": record.digest, "version": 1, "path": record.path},
    )
    assert (record.team, record.priority, record.priority_ceiling) == ("lab", "low", "low")
    assert record.profile is not None and record.profile.digest == record.digest
    assert world.store.lineage.seal("tiny", 1)
    assert events(world, "model.registered") == [("tiny", {"version": 1})]
    assert script.stages() == [("analyze", "tiny")]
    assert world.services.switchboard._known == {"tiny": 1}
    assert world.store.rules.asked() == {"tiny": {"team": "lab", "priority_ceiling": "low"}}
    tiny_onnx(world.incoming / "tiny")
    again = await ingest(world.services, path=str(world.incoming / "tiny"))
    assert again == Report(
        stage="ingest",
        outcome="unchanged",
        model="tiny",
        reason="the repository already has this content",
        details={"digest": record.digest, "version": 1},
    )
    assert not (world.incoming / "tiny").exists()
    assert list(world.services.repository.staging.iterdir()) == []


async def test_a_name_that_no_model_can_have_is_an_error_of_the_caller(world: World) -> None:
    tiny_onnx(world.incoming / "tiny")
    with pytest.raises(InputError, match="; nothing was moved"):
        await ingest(world.services, path=str(world.incoming / "tiny"), name="a@b")
    assert (world.incoming / "tiny").exists()


async def test_one_name_is_taken_in_at_a_time(world: World) -> None:
    tiny_onnx(world.incoming / "drop")
    for key, name in (("drop", None), ("mine", "mine")):
        async with world.services.turns.of(key):
            task = world.launcher.ingest(path=str(world.incoming / "drop"), name=name)
            world.launcher.start(task)
            await world.idle()
            assert not world.services.turns.is_free(key)
            assert (world.incoming / "drop").exists(), "it waits for its turn"
        await world.eventually(lambda n=name or "drop": world.store.find(n) is not None)
        tiny_onnx(world.incoming / "drop", weight=2.0)


@pytest.mark.parametrize("end", ["unknown", "kept", "removed", "never"])
async def test_a_removal_of_its_name_is_waited_for_but_not_for_ever(
    world: World, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingesting, "REMOVAL_S", 2.5 * POLL_S)
    world.clock.advance(1000.0)
    if end != "unknown":
        registered(world)
    if end in ("removed", "never"):
        world.store.lineage.begin_removal("tiny", by="me", purge=False)
    if end == "removed":
        world.clock.hurried = False
        world.launcher.start(_waited(world))
        await world.clock.asleep()
        world.store.lineage.finish_removal("tiny")
        world.clock.advance(POLL_S)
        await background(world)
    else:
        await ingesting._removed(world.services, "tiny")
    expected = {"unknown": 0, "kept": 0, "removed": 1, "never": 3}
    assert world.clock.slept == [POLL_S] * expected[end]


async def _waited(world: World) -> Report:
    await ingesting._removed(world.services, "tiny")
    return Report(stage="ingest", outcome="waited")


# --- reservations ---------------------------------------------------------------------------------


def staged(world: World, *, there: bool = False) -> Staged:
    folder = world.services.repository.staging / "x" / "tiny"
    if there:
        folder.mkdir(parents=True)
    return Staged(name="tiny", folder=folder, moved=True)


async def test_a_number_is_reserved_with_all_that_is_known(world: World) -> None:
    registered(world)
    drop, repository = staged(world, there=True), world.services.repository
    asked = {"team": "lab", "priority_ceiling": None}
    found = ingesting._reserve(world.store, repository, drop, "sha256:2", asked)
    path = str(repository.path("tiny", 2))
    assert found == Reservation(model="tiny", version=2, path=path, digest="sha256:2", asked=asked)
    assert world.store.reservations.all() == [found]
    world.store.lineage.begin_removal("tiny", by="me", purge=False)
    with pytest.raises(Unavailable, match="tiny is being removed; the drop returns to the drop"):
        ingesting._reserve(world.store, repository, drop, "sha256:3", asked)


async def test_a_drop_that_has_its_place_finds_its_own_reservation(world: World) -> None:
    first, second = reservation(world), reservation(world, 2, digest="sha256:2")
    reservation(world, 3, digest="sha256:3")
    for held in (first, second):
        os.makedirs(held.path)
    assert ingesting._held(world.store, staged(world), "sha256:2") == second
    assert ingesting._held(world.store, staged(world), "sha256:1") == first
    assert ingesting._held(world.store, staged(world), "sha256:3") is None, "it has not"
    assert ingesting._held(world.store, staged(world), "sha256:4") is None
    assert ingesting._held(world.store, staged(world, there=True), "sha256:2") is None


@pytest.mark.parametrize("moved", [False, True])
async def test_a_number_is_free_again_unless_the_folder_may_have_it(
    world: World, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = staged(world, there=True)

    def failing(*_args: object, **_given: object) -> None:
        if moved:
            drop.folder.rename(drop.folder.parent / "elsewhere")
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(world.services.repository, "publish", failing)
    profile = registered(world, "other").profile
    assert profile is not None
    with pytest.raises(OSError, match="Input/output"):
        await ingesting._publish(world.services, drop, profile, {}, "seal")
    assert len(world.store.reservations.all()) == moved
    assert world.store.find("tiny") is None


async def test_what_a_crash_has_left_is_registered_or_given_back(world: World) -> None:
    folder = onnx(world, "tiny")
    reservation(world)
    reservation(world, 2)
    reservation(world, name="other")
    scripted(world)
    await settle_reserved(world.services, "tiny", steps=world.steps)
    assert world.store.lineage.paths() == {str(folder): ("tiny", 1)}
    assert [held.model for held in world.store.reservations.all()] == ["other"]
    assert world.store.model("tiny").team == "lab"
    assert events(world, "drop.recovered") == [("tiny", {"version": 1})]
    assert world.store.rules.asked() == {"tiny": {"team": "lab"}}


# --- adoption -------------------------------------------------------------------------------------


async def test_a_folder_is_registered_once_and_an_older_one_stays_older(world: World) -> None:
    newest, older = onnx(world, "tiny@2", weight=2.0), onnx(world, "tiny")
    script = scripted(world)
    report = await adopt(world.services, newest, missing=None, steps=world.steps)
    assert (report.outcome, report.reason) == ("registered", "version 2 from tiny@2")
    assert world.store.model("tiny").team is None and events(world, "drop.recovered") == []
    before = await adopt(world.services, older, missing=None, steps=world.steps)
    assert before == Report(
        stage="ingest",
        outcome="registered",
        model="tiny",
        reason="an older version than the current one, 2",
        details={"digest": before.details["digest"], "version": 1, "path": str(older)},
    )
    again = await adopt(world.services, older, missing=None, steps=world.steps)
    assert again == Report(stage="ingest", outcome="unchanged", reason="tiny is registered")
    await background(world)
    assert script.stages() == [("analyze", "tiny")]
    assert world.store.lineage.seal("tiny", 1) and world.store.lineage.seal("tiny", 2)


async def test_a_folder_that_was_moved_here_is_the_same_version(world: World) -> None:
    folder = onnx(world, "tiny")
    script = scripted(world)
    await adopt(world.services, folder, missing=None, steps=world.steps)
    digest = world.store.model("tiny").digest
    world.store.lineage.relocate("tiny", 1, digest=digest, path=Path("/old/tiny"))
    world.store.lineage.set_seal("tiny", 1, "old")
    await adopt(world.services, folder, missing=None, steps=world.steps)
    assert world.store.lineage.paths() == {str(folder): ("tiny", 1)}
    assert world.store.lineage.seal("tiny", 1) not in ("old", None)
    await background(world)
    assert len(script.asked) == 2


async def test_what_is_missing_is_said_or_found_out(world: World) -> None:
    folder = onnx(world, "tiny@3")
    said = await adopt(world.services, folder, missing="a shard", steps=world.steps)
    assert (said.outcome, said.model, said.details["missing"]) == ("incomplete", "tiny", "a shard")
    empty = world.services.repository.published / "empty"
    empty.mkdir()
    found = await adopt(world.services, empty, missing=None, steps=world.steps)
    assert (found.outcome, found.details["missing"]) == ("incomplete", "the folder is empty")


def test_what_cannot_be_a_model_says_how_it_could(tmp_path: Path) -> None:
    (tmp_path / "one.onnx").touch()
    (tmp_path / "two words").mkdir()
    (tmp_path / "tiny@4").mkdir()
    with pytest.raises(DropRejected, match=r"one\.onnx is a file; put it into a folder") as file:
        adopting._parsed(tmp_path / "one.onnx")
    with pytest.raises(DropRejected, match="'two words' is not a valid model name") as name:
        adopting._parsed(tmp_path / "two words")
    assert (file.value.reason, name.value.reason) == ("single-file", "name")
    assert adopting._parsed(tmp_path / "tiny@4") == ("tiny", 4)
    assert adopting._name(tmp_path / "tiny@4") == "tiny"
    assert adopting._name(tmp_path / "two words") == "two words"


async def test_files_of_another_folder_are_none_of_a_reservation(world: World) -> None:
    held, other = reservation(world), reservation(world, 2)
    found = await adopting._reservation(world.services, Path(other.path))
    assert (found, held.version) == (other, 1)
    third = world.services.repository.path("tiny", 3)
    assert await adopting._reservation(world.services, third) is None
    assert with_files(world, "fine").version == 1
