"""What lies in the repository without a drop is registered; what is gone is reported."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from pathlib import Path

import pytest

from modelium import analysis
from modelium.control.adoption import Adoption, _may_be_model, _newest_first
from modelium.control.operations import Operations
from modelium.errors import LoadFailed
from modelium.lifecycle import ModelState
from modelium.models import Reservation
from modelium.stages.removal import remove
from modelium.stages.tidying import move_removed
from tests.fakes.clock import START
from tests.modelium.conftest import World
from tests.samples import risky_onnx, tiny_onnx

LATER_S = 60.0
"""Longer than the quiet period."""


@pytest.fixture
def adoption(world: World) -> Adoption:
    world.clock.advance(time.time() - START + LATER_S)  # files have the times of the real clock
    return Adoption(services=world.services)


@pytest.fixture
def repository(world: World) -> Path:
    return world.services.repository.published


def ingested(world: World) -> list[str]:
    """The names of the entries that were given to ingest, in order."""
    return [Path(given["path"]).name for stage, given in world.ran if stage == "ingest"]


def listed(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


async def test_a_model_in_the_repository_is_registered_where_it_is(
    world: World, adoption: Adoption, repository: Path
) -> None:
    tiny_onnx(repository / "tiny")
    before = listed(repository)
    await adoption.poll()
    await world.settled("tiny", "ready")
    assert world.store.model("tiny").path == str(repository / "tiny")
    assert listed(repository) == before
    await adoption.poll()
    assert ingested(world) == ["tiny"]


async def test_what_modelium_published_itself_is_not_registered_again(
    world: World, adoption: Adoption
) -> None:
    await world.load()
    await world.drop(weight=2.0)
    await world.until("tiny", lambda model: model.version == 2)
    (world.services.repository.staging / "cafe").mkdir()
    world.ran.clear()
    await adoption.poll()
    assert ingested(world) == []


async def test_all_versions_are_registered_and_the_highest_is_current(
    world: World, adoption: Adoption, repository: Path
) -> None:
    """As after the loss of the store."""
    for number in (1, 2, 10):
        tiny_onnx(world.services.repository.path("tiny", number), weight=float(number))
    await adoption.poll()
    assert ingested(world) == ["tiny@10", "tiny@2", "tiny"]
    assert world.store.model("tiny").version == 10
    assert world.store.lineage.paths() == {
        str(repository / "tiny"): ("tiny", 1),
        str(repository / "tiny@2"): ("tiny", 2),
        str(repository / "tiny@10"): ("tiny", 10),
    }
    analyzed = [given for stage, given in world.ran if stage == "analyze"]
    assert len(analyzed) == 1
    report = await world.drop(weight=11.0)
    assert report.details["version"] == 11


async def test_a_folder_that_is_still_written_waits(
    world: World, adoption: Adoption, repository: Path
) -> None:
    world.clock.advance(-LATER_S)
    tiny_onnx(repository / "tiny")
    await adoption.poll()
    assert ingested(world) == []
    world.clock.advance(LATER_S)
    await adoption.poll()
    assert ingested(world) == ["tiny"]


async def test_a_refused_folder_is_reported_and_stays(
    world: World, adoption: Adoption, repository: Path
) -> None:
    risky_onnx(repository / "tiny", "weights.pkl")
    await adoption.poll()
    await adoption.poll()
    assert ingested(world) == ["tiny"]
    assert (repository / "tiny" / "weights.pkl").exists()
    assert list(world.rejected.iterdir()) == []
    (drop,) = world.services.pending.all()
    assert (drop.name, drop.state, drop.rule) == ("tiny", "rejected", "pickle")
    assert world.kinds() == [("drop.rejected", "tiny")]
    (repository / "tiny" / "weights.pkl").unlink()
    world.clock.advance(LATER_S)
    await adoption.poll()
    assert world.store.names() == {"tiny"}
    assert world.services.pending.all() == []


async def test_a_refused_folder_can_be_approved_where_it_is(
    world: World, adoption: Adoption, repository: Path
) -> None:
    risky_onnx(repository / "tiny", "weights.pkl")
    await adoption.poll()
    operations = Operations(services=world.services)
    await operations.approve("tiny")
    await world.eventually(lambda: "tiny" in world.store.names())
    assert world.store.model("tiny").approvals == {"pickle"}
    assert world.store.model("tiny").path == str(repository / "tiny")
    await operations.aclose()


async def test_an_incomplete_folder_is_never_moved(
    world: World, adoption: Adoption, repository: Path
) -> None:
    (repository / "tiny").mkdir()
    world.clock.advance(10 * world.services.config.ingest.incomplete_after_seconds)
    await adoption.poll()
    (drop,) = world.services.pending.all()
    assert (drop.state, drop.reason) == ("incomplete", "the folder is empty")
    (repository / "tiny").rmdir()
    await adoption.poll()
    assert world.services.pending.all() == []


@pytest.mark.parametrize(
    ("name", "rule"), [("two words", "name"), ("tiny@x", "name"), ("tiny.onnx", "single-file")]
)
async def test_an_entry_that_cannot_be_a_model_says_so(
    world: World, adoption: Adoption, repository: Path, name: str, rule: str
) -> None:
    tiny_onnx(repository / "tiny" if "onnx" in name else repository / name)
    if "onnx" in name:
        os.rename(repository / "tiny" / "model.onnx", repository / name)
        shutil.rmtree(repository / "tiny")
    (repository / "README.md").touch()
    (repository / "lost+found").mkdir()
    await adoption.poll()
    assert [drop.rule for drop in world.services.pending.all()] == [rule]
    assert (repository / name).exists()


async def test_a_link_in_the_repository_is_refused_and_not_read(
    world: World, adoption: Adoption, repository: Path, tmp_path: Path
) -> None:
    tiny_onnx(tmp_path / "elsewhere")
    (repository / "tiny").symlink_to(tmp_path / "elsewhere")
    await adoption.poll()
    (refused,) = world.services.pending.all()
    assert (refused.rule, refused.digest) == ("link-outside", "")


async def test_a_drop_does_not_displace_a_folder_that_waits_to_be_registered(
    world: World, adoption: Adoption, repository: Path
) -> None:
    """Nor what a crash left between publication and registration."""
    tiny_onnx(repository / "tiny", weight=1.0)
    await world.drop(weight=2.0)
    assert world.store.model("tiny").path == str(repository / "tiny@2")
    world.clock.advance(LATER_S)
    await adoption.poll()
    assert world.store.model("tiny").version == 2
    assert world.store.lineage.paths()[str(repository / "tiny")] == ("tiny", 1)


async def test_a_repository_that_was_moved_keeps_its_models(
    world: World, adoption: Adoption, repository: Path
) -> None:
    await world.load()
    world.store.lineage.relocate(
        "tiny", 1, digest=world.store.model("tiny").digest, path=Path("/old/tiny")
    )
    await adoption.poll()
    assert world.store.lineage.paths() == {str(repository / "tiny"): ("tiny", 1)}


@pytest.mark.unfinished("its folder is gone")
async def test_a_model_whose_folder_is_gone_is_reported(
    world: World, adoption: Adoption, repository: Path
) -> None:
    await world.load()
    await world.launcher.evict(models=["tiny"])
    os.rename(repository / "tiny", repository / ".aside")
    await adoption.poll()
    await adoption.poll()
    record = world.store.model("tiny")
    assert (record.state, record.path in record.reason) == (ModelState.FAILED, True)
    assert world.kinds().count(("model.missing", "tiny")) == 1
    with pytest.raises(LoadFailed, match="is missing"):
        await world.launcher.load(model="tiny")


async def test_a_model_is_analyzed_again_when_its_folder_is_back(
    world: World, adoption: Adoption, repository: Path
) -> None:
    await world.load()
    await world.launcher.evict(models=["tiny"])
    os.rename(repository / "tiny", repository / ".aside")
    await adoption.poll()
    os.rename(repository / ".aside", repository / "tiny")
    await adoption.poll()
    await world.settled("tiny", "ready")


@pytest.mark.unfinished("its folder is gone")
async def test_a_loaded_model_goes_on_serving_without_its_folder(
    world: World, adoption: Adoption, repository: Path
) -> None:
    await world.load()
    shutil.rmtree(repository / "tiny")
    await adoption.poll()
    await adoption.poll()
    assert world.store.model("tiny").state is ModelState.READY
    assert world.kinds().count(("model.missing", "tiny")) == 1
    assert await world.request() == "tiny"
    report = await world.drop()
    assert (report.outcome, report.details["version"]) == ("registered", 2)


@pytest.mark.unfinished("the repository is gone")
async def test_a_repository_that_cannot_be_listed_changes_nothing(
    world: World, adoption: Adoption, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await world.load()
    os.rename(repository, repository.parent / "unmounted")
    await adoption.poll()
    await adoption.poll()
    logged = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert [r.message.startswith("the model repository cannot be listed") for r in logged] == [True]
    assert world.store.model("tiny").state is ModelState.READY


async def test_a_folder_in_the_place_of_a_removed_model_is_another_model(
    world: World, adoption: Adoption, repository: Path
) -> None:
    await world.load()
    world.store.lineage.begin_removal("tiny", by="me", purge=False)
    await remove(world.services, model="tiny")
    await adoption.poll()
    assert world.store.names() == set()
    tiny_onnx(repository / "tiny")
    world.clock.advance(LATER_S)
    await adoption.poll()
    assert world.store.model("tiny").path == str(repository / "tiny")
    await move_removed(world.services)
    assert (repository / "tiny").exists()


async def test_a_folder_that_cannot_be_read_costs_no_other(
    world: World,
    adoption: Adoption,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tiny_onnx(repository / "bad")
    tiny_onnx(repository / "good")
    read = analysis.digest

    def broken(folder: Path) -> str:
        if folder.name == "bad":
            raise OSError(5, "Input/output error")
        return read(folder)

    with monkeypatch.context() as patch:
        patch.setattr(analysis, "digest", broken)
        await adoption.poll()
        await adoption.poll()
    assert world.store.model("good")
    assert world.store.find("bad") is None
    assert caplog.text.count("bad could not be registered") == 1, "once, and not at each scan"
    await adoption.poll()
    assert world.store.model("bad")


def test_what_may_be_a_model_is_told_from_what_lies_beside_them(tmp_path: Path) -> None:
    for name in ("folder", "folder.txt", ".hidden", "lost+found"):
        (tmp_path / name).mkdir()
    for name in ("a.gguf", "b.onnx", "c.safetensors", "README.md", ".d.gguf", "e"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert sorted(p.name for p in tmp_path.iterdir() if _may_be_model(p)) == [
        "a.gguf", "b.onnx", "c.safetensors", "folder", "folder.txt", "link",
    ]  # fmt: skip


def test_entries_are_taken_by_name_the_newest_version_first() -> None:
    names = ["b", "a@2", "two words", "a", "a@10"]
    assert [p.name for p in sorted(map(Path, names), key=_newest_first)] == [
        "a@10", "a@2", "a", "b", "two words",
    ]  # fmt: skip


async def test_the_repository_is_scanned_again_after_each_interval(
    world: World, adoption: Adoption, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    interval_s = world.services.config.ingest.rescan_interval_seconds
    world.clock.hurried = False
    with world.locked():  # the first scan fails
        (repository / "half.onnx").mkdir()
        task = asyncio.create_task(adoption.run())
        await world.clock.asleep()
    assert world.clock.slept == [interval_s]
    tiny_onnx(repository / "tiny")
    world.clock.advance(LATER_S + interval_s)
    await world.settled("tiny", "ready")
    await world.clock.asleep()
    assert world.clock.slept == [interval_s, interval_s]
    assert not task.done()
    task.cancel()


async def test_a_drop_elsewhere_stays_pending(world: World, adoption: Adoption) -> None:
    half = world.incoming / "half.onnx"
    half.touch()
    await world.launcher.ingest(path=str(half))
    (before,) = world.services.pending.all()
    await adoption.poll()
    assert world.services.pending.all() == [before]


async def test_what_is_being_taken_in_is_left_alone(
    world: World, adoption: Adoption, repository: Path
) -> None:
    for name in ("a", "b@2"):
        tiny_onnx(repository / name)
    async with world.services.turns.of("a"), world.services.turns.of("b"):
        await adoption.poll()
    assert ingested(world) == []
    await adoption.poll()
    assert ingested(world) == ["a", "b@2"]


async def test_reserved_folders_are_registered_and_other_reservations_end(
    world: World, adoption: Adoption, repository: Path
) -> None:
    world.clock.advance(-LATER_S)  # none is quiet yet
    held = [
        Reservation(model=name, version=1, path=str(repository / name), digest="d")
        for name in ("a", "b", "c")
    ]
    for reservation in held:
        world.store.reservations.add(reservation)
    for name in ("b", "d"):
        tiny_onnx(repository / name)
    async with world.services.turns.of("a"):
        await adoption.poll()
    assert ingested(world) == ["b"]
    assert world.store.reservations.all() == held[:1], "that one is being taken in"
    await adoption.poll()
    assert world.store.reservations.all() == []


@pytest.mark.unfinished("its folder is gone")
async def test_a_model_that_failed_otherwise_keeps_its_reason(
    world: World, adoption: Adoption, repository: Path
) -> None:
    await world.load()
    await world.launcher.evict(models=["tiny"])
    world.store.states.mark_unservable("tiny", reason="no header can be read")
    world.ran.clear()
    await adoption.poll()
    assert world.ran == [], "its folder is there: nothing has changed"
    os.rename(repository / "tiny", repository / ".aside")
    await adoption.poll()
    await adoption.poll()
    assert world.store.model("tiny").reason == "no header can be read"
    assert world.kinds().count(("model.missing", "tiny")) == 1
    os.rename(repository / ".aside", repository / "tiny")
    await adoption.poll()
    os.rename(repository / "tiny", repository / ".aside")
    await adoption.poll()
    assert world.kinds().count(("model.missing", "tiny")) == 2, "it was back meanwhile"


async def test_a_model_whose_folder_was_missing_at_its_load_heals_when_it_is_back(
    world: World, adoption: Adoption, tmp_path: Path
) -> None:
    await world.load()
    await world.launcher.evict(models=["tiny"])
    folder = Path(world.store.model("tiny").path)
    os.rename(folder, tmp_path / "away")
    with pytest.raises(LoadFailed, match="is missing"):
        await world.launcher.load(model="tiny")
    record = world.store.model("tiny")
    assert (record.state, record.failures, record.retry_at) == (ModelState.FAILED, 0, None)
    assert str(folder) in record.reason
    os.rename(tmp_path / "away", folder)
    await adoption.poll()
    await world.until("tiny", lambda model: model.state in ("unloaded", "analyzed", "ready"))
