"""A drop is registered once, whatever ends the service or another drop of its name meanwhile."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import tarfile
import time
from pathlib import Path

import pytest

from modelium import analysis
from modelium.control.adoption import Adoption
from modelium.errors import InputError, LoadFailed, Unavailable
from modelium.intake import staging
from modelium.intake.removal import remove
from modelium.models import Report, Reservation
from tests.fakes.clock import START
from tests.modelium.conftest import World
from tests.samples import tiny_onnx

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """In place of SIGKILL: nothing of the process runs any more."""


def kill(*_args: object, **_given: object) -> None:
    raise Killed


def folders(world: World) -> list[str]:
    published = world.services.repository.published
    return sorted(p.name for p in published.iterdir() if not p.name.startswith("."))


async def killed_before_it_is_registered(
    world: World, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "register", kill)
        with pytest.raises(Killed):
            await world.launcher.ingest(path=str(path), team="lab", priority_ceiling="low")
    assert world.store.names() == frozenset()


async def test_a_drop_whose_folder_has_its_place_is_registered_by_the_next_scan(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_onnx(world.incoming / "tiny")
    await killed_before_it_is_registered(world, monkeypatch, world.incoming / "tiny")
    world.services.repository.recover()
    world.clock.advance(time.time() - START)  # within the quiet period
    await Adoption(services=world.services).poll()
    await world.settled("tiny", "ready")
    model = world.store.model("tiny")
    assert (model.version, model.team, model.priority_ceiling) == (1, "lab", "low")
    assert world.store.reservations.all() == []
    assert ("drop.recovered", "tiny") in world.kinds()


async def test_an_archive_that_a_crash_leaves_is_not_registered_twice(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It returns to the drop zone, since it may have been its folder that did not arrive."""
    tiny_onnx(tmp_path / "elsewhere" / "tiny")
    archive = world.incoming / "tiny.tar"
    with tarfile.open(archive, "w") as packed:
        packed.add(tmp_path / "elsewhere" / "tiny", arcname="tiny")
    with monkeypatch.context() as patch:
        patch.setattr("modelium.intake.staging.Staging._discard", kill)
        with pytest.raises(Killed):
            await world.launcher.ingest(path=str(archive), team="lab")
    assert world.services.repository.recover() == [archive]
    report = await world.launcher.ingest(path=str(archive))
    assert report.outcome == "unchanged"
    assert folders(world) == ["tiny"]
    assert world.store.model("tiny").version == 1
    assert world.store.model("tiny").team == "lab"


async def test_a_number_whose_folder_never_came_is_free_again(world: World) -> None:
    path = str(world.services.repository.path("tiny", 1))
    world.store.reservations.add(Reservation(model="tiny", version=1, path=path, digest="sha256:"))
    await Adoption(services=world.services).poll()
    assert world.store.reservations.all() == []
    assert (await world.drop()).details["version"] == 1


async def test_a_number_is_promised_once(world: World) -> None:
    reservation = Reservation(model="tiny", version=1, path="/r/tiny", digest="sha256:1")
    world.store.reservations.add(reservation)
    with pytest.raises(Unavailable, match="version 1 of tiny is taken"):
        world.store.reservations.add(reservation)
    assert world.store.lineage.next_version("tiny") == 2


async def test_a_store_that_fails_once_after_the_publication_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failed = world.store.register, []

    def register(*args: object, **given: object) -> object:
        if not failed:
            failed.append(True)
            raise Unavailable("the store is locked")
        return real(*args, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(world.store, "register", register)
    report = await world.drop()
    assert (report.outcome, failed) == ("registered", [True])
    assert folders(world) == ["tiny"]


@pytest.mark.parametrize("seed", range(3))
async def test_two_drops_of_one_name_at_once_are_two_versions(
    world: World, tmp_path: Path, seed: int
) -> None:
    order = random.Random(seed)
    places = [world.incoming / "tiny", *(tmp_path / f"from{n}" / "tiny" for n in range(3))]
    for number, place in enumerate(places):
        tiny_onnx(place, weight=float(number))
    order.shuffle(places)

    async def drop(place: Path) -> Report:
        return await world.launcher.ingest(path=str(place))

    reports = await asyncio.gather(*(drop(place) for place in places))
    assert [report.outcome for report in reports] == 4 * ["registered"]
    versions = world.store.lineage.versions("tiny")
    assert sorted(version.version for version in versions) == [1, 2, 3, 4]
    for version in versions:
        assert analysis.digest(Path(version.path)) == version.digest


# --- what is moved, and what stays ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "x/../../y", "tiny\n", "a b", ".hidden", "origin.json"])
async def test_a_name_that_no_model_can_have_moves_nothing(
    world: World, tmp_path: Path, name: str
) -> None:
    private = tmp_path / "private" / "model"
    tiny_onnx(private)
    tiny_onnx(world.incoming / "tiny")
    for path in (private, world.incoming / "tiny"):
        with pytest.raises(InputError, match="not a valid model name"):
            await world.launcher.ingest(path=str(path), name=name)
        assert (path / "model.onnx").exists()


async def test_what_is_refused_elsewhere_stays_where_it_is(world: World, tmp_path: Path) -> None:
    broken = tmp_path / "private" / "m.zip"
    broken.parent.mkdir()
    broken.write_bytes(b"no archive at all")
    (tmp_path / "private" / "bad name").mkdir()
    for path in (broken, tmp_path / "private" / "bad name"):
        report = await world.launcher.ingest(path=str(path))
        assert report.outcome == "rejected"
        assert path.exists()
    assert list(world.rejected.iterdir()) == []


async def test_an_approval_leaves_no_copy_behind(world: World) -> None:
    tiny_onnx(world.incoming / "tiny")
    (world.incoming / "tiny" / "weights.pkl").write_bytes(b"\x80\x04.")
    await world.launcher.ingest(path=str(world.incoming / "tiny"))
    folder, reason = world.services.repository.find_rejected("tiny")
    world.store.rules.approve("tiny", digest=str(reason["digest"]), what=["pickle"])
    path = world.services.repository.readmit(folder)
    report = await world.launcher.ingest(path=str(path), name="tiny")
    assert report.outcome == "registered"
    assert list(world.rejected.iterdir()) == []


async def test_a_refused_archive_is_kept_as_it_was_and_can_be_approved(
    world: World, tmp_path: Path
) -> None:
    tiny_onnx(tmp_path / "elsewhere" / "tiny")
    (tmp_path / "elsewhere" / "tiny" / "weights.pkl").write_bytes(b"\x80\x04.")
    archive = world.incoming / "tiny.tar"
    with tarfile.open(archive, "w") as packed:
        packed.add(tmp_path / "elsewhere" / "tiny", arcname="tiny")
    assert (await world.launcher.ingest(path=str(archive))).outcome == "rejected"
    folder, reason = world.services.repository.find_rejected("tiny")
    assert sorted(entry.name for entry in folder.iterdir()) == ["reason.json", "tiny.tar"]
    world.store.rules.approve("tiny", digest=str(reason["digest"]), what=["pickle"])
    path = world.services.repository.readmit(folder)
    assert (await world.launcher.ingest(path=str(path))).outcome == "registered"


async def test_a_link_to_an_archive_is_refused_and_its_target_not_read(
    world: World, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.tar"
    tiny_onnx(tmp_path / "elsewhere" / "tiny")
    with tarfile.open(secret, "w") as packed:
        packed.add(tmp_path / "elsewhere" / "tiny", arcname="tiny")
    link = world.incoming / "tiny.tar"
    link.symlink_to(secret)
    report = await world.launcher.ingest(path=str(link))
    assert (report.outcome, report.details["rule"]) == ("rejected", "link-outside")
    assert secret.exists() and folders(world) == []


async def test_a_full_disk_rejects_no_drop(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_onnx(tmp_path / "elsewhere" / "tiny")
    archive = world.incoming / "tiny.tar"
    with tarfile.open(archive, "w") as packed:
        packed.add(tmp_path / "elsewhere" / "tiny", arcname="tiny")

    def full(*_args: object, **_given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("modelium.analysis.checks.archives._write", full)
        with pytest.raises(OSError, match="No space"):
            await world.launcher.ingest(path=str(archive))
    assert archive.exists() and list(world.rejected.iterdir()) == []
    assert list(world.services.repository.staging.iterdir()) == []
    assert (await world.launcher.ingest(path=str(archive))).outcome == "registered"


async def test_too_few_descriptors_reject_no_drop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_onnx(world.incoming / "tiny")
    with monkeypatch.context() as patch:
        real = Path.open

        def exhausted(path: Path, *args: object, **given: object) -> object:
            if path.name == "model.onnx" and given.get("buffering") == 0:
                raise OSError(24, "Too many open files")
            return real(path, *args, **given)  # type: ignore[call-overload]

        patch.setattr(Path, "open", exhausted)
        with pytest.raises(OSError, match="Too many open files"):
            await world.launcher.ingest(path=str(world.incoming / "tiny"))
    assert list(world.rejected.iterdir()) == []
    assert (world.incoming / "tiny" / "model.onnx").exists()


async def test_a_folder_of_any_depth_is_rejected(world: World) -> None:
    deep = world.incoming / "deep"
    deep.mkdir()
    at = os.open(deep, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    report = await world.launcher.ingest(path=str(deep))
    assert (report.outcome, report.details["rule"]) == ("rejected", "too-deep")
    assert not deep.exists()
    (kept, _reason) = world.services.repository.find_rejected("deep")
    assert (kept / "deep" / "d").is_dir()
    remove(kept)  # pytest could not
    assert not kept.exists()


# --- the files that are loaded are those that were checked ------------------------------------------


async def reload(world: World) -> None:
    await world.launcher.evict(models=["tiny"], reason="a test")
    await world.settled("tiny", "unloaded")
    await world.launcher.load(model="tiny")


@pytest.mark.unfinished("its files were changed")
async def test_a_file_that_was_added_or_changed_after_the_check_is_not_loaded(
    world: World,
) -> None:
    folder = Path((await world.load()).path)
    await reload(world)
    await world.settled("tiny", "ready")
    (folder / "config.pbtxt").write_text('backend: "python"')
    with pytest.raises(LoadFailed, match="not those that were checked"):
        await reload(world)
    assert "drop the model again" in world.store.model("tiny").reason


@pytest.mark.unfinished("its files were changed")
async def test_contents_that_keep_size_and_time_are_noticed(world: World) -> None:
    folder = Path((await world.load()).path)
    file = folder / "model.onnx"
    info, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
    with pytest.raises(LoadFailed, match="not those that were checked"):
        await reload(world)


async def test_files_that_were_put_back_are_read_again_and_loaded(world: World) -> None:
    folder = Path((await world.load()).path)
    sealed = world.store.lineage.seal("tiny", 1)
    data = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").write_bytes(data)
    await reload(world)
    await world.settled("tiny", "ready")
    assert world.store.lineage.seal("tiny", 1) not in (None, sealed)


@pytest.mark.parametrize("failure", [None, OSError(errno.EIO, "Input/output error")])
async def test_a_drop_that_is_refused_after_a_newer_one_came_is_kept_and_that_one_is_not_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, failure: OSError | None
) -> None:
    drop, rename = world.incoming / "tiny", os.rename
    tiny_onnx(drop)
    drop.chmod(0o777)  # so that it is copied, which refuses the pipe or fails
    os.mkfifo(drop / "pipe")

    def newer_comes(source: Path, target: Path, **given: int) -> None:
        rename(source, target, **given)
        if Path(source) == drop:
            tiny_onnx(drop, weight=2.0)

    def fail(*_args: object, **_given: object) -> None:
        raise failure or AssertionError

    monkeypatch.setattr(os, "rename", newer_comes)
    if failure is None:
        report = await world.launcher.ingest(path=str(drop))
        assert (report.outcome, report.details["rule"]) == ("rejected", "special-file")
    else:
        monkeypatch.setattr(staging, "copy_in", fail)
        with pytest.raises(OSError, match="Input/output error"):
            await world.launcher.ingest(path=str(drop))
    monkeypatch.undo()
    ((kept, reason),) = world.services.repository.rejected_drops()
    assert reason["reason"] == ("special-file" if failure is None else "interrupted")
    assert (kept / "tiny" / "pipe").is_fifo()
    assert list(world.services.repository.staging.iterdir()) == []
    assert (await world.launcher.ingest(path=str(drop))).outcome == "registered"


@pytest.mark.unfinished("its files were changed")
@pytest.mark.parametrize("missing", [False, True])
async def test_a_drop_replaces_the_same_content_that_was_damaged(
    world: World, missing: bool
) -> None:
    file = Path((await world.load()).path) / "model.onnx"
    good = file.read_bytes()
    file.unlink() if missing else file.write_bytes(good[:-3] + b"xyz")
    report = await world.drop()
    assert (report.outcome, report.details["version"]) == ("registered", 2)
    assert (Path(world.store.model("tiny").path) / "model.onnx").read_bytes() == good
    assert (await world.drop()).outcome == "unchanged"


async def test_a_model_that_is_registered_is_its_teams_whatever_comes_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = world.store.register

    def killed(*args: object, **given: object) -> None:
        register(*args, **given)  # type: ignore[arg-type]
        raise Killed

    tiny_onnx(world.incoming / "tiny")
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "register", killed)
        with pytest.raises(Killed):
            await world.launcher.ingest(
                path=str(world.incoming / "tiny"), team="lab", priority_ceiling="low"
            )
    assert world.store.rules.asked() == {"tiny": {"team": "lab", "priority_ceiling": "low"}}
    await world.drop(weight=2.0)
    model = world.store.model("tiny")
    assert (model.version, model.team, model.priority_ceiling) == (2, "lab", "low")
