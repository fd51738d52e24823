from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from modelium.analysis.readers.laid import CONFIG, Laid
from modelium.config import Orchestration
from modelium.errors import DropRejected, InputError
from modelium.intake import copying
from modelium.intake.fingerprint import fingerprint
from modelium.intake.names import REASON, model_name, version_of
from modelium.intake.repository import ModelRepository
from tests.modelium.analysis.files import llama_folder

UNSAFE = DropRejected("it holds pickles", reason="pickle", approvable=True)


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(
        config=Orchestration(
            model_repository=tmp_path / "repository",
            incoming_directory=tmp_path / "incoming",
            rejected_directory=tmp_path / "rejected",
        )
    )


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


LLAMA_FILES = {"config.json", "model.safetensors"}


# --- stage --------------------------------------------------------------------------------------


def test_drop_in_the_drop_zone_is_moved(repository: ModelRepository) -> None:
    drop = llama_folder(repository.incoming / "m")
    staged = repository.stage(drop, name=None)
    assert (staged.name, staged.moved) == ("m", True)
    assert files(staged.folder) == LLAMA_FILES
    assert not drop.exists()


def test_drop_from_elsewhere_is_copied(repository: ModelRepository, tmp_path: Path) -> None:
    original = llama_folder(tmp_path / "home" / "m")
    staged = repository.stage(original, name="other")
    assert (staged.name, staged.moved) == ("other", False)
    assert files(staged.folder) == files(original) == LLAMA_FILES


def test_what_a_drop_brings_as_laid_for_triton_is_taken_off(repository: ModelRepository) -> None:
    drop = llama_folder(repository.incoming / "m")
    Laid(version=1, config=True, folder="1").write(drop)
    (drop / CONFIG).write_text('backend: "python"')
    (drop / "1").mkdir()
    (drop / "1" / "config.json").write_bytes((drop / "config.json").read_bytes())
    (drop / "1" / "model.py").write_text("print('mine')")
    staged = repository.stage(drop, name=None)
    assert files(staged.folder) == {*LLAMA_FILES, "1/model.py"}


def test_single_file_is_staged_in_a_folder(repository: ModelRepository) -> None:
    (repository.incoming / "tiny.gguf").write_bytes(b"GGUF")
    staged = repository.stage(repository.incoming / "tiny.gguf", name=None)
    assert staged.name == "tiny"
    assert files(staged.folder) == {"tiny.gguf"}


@pytest.mark.parametrize("inner", ["", "some-other-name"])
def test_archive_is_unpacked_without_its_only_folder(
    repository: ModelRepository, tmp_path: Path, inner: str
) -> None:
    folder = llama_folder(tmp_path / "m")
    archive = repository.incoming / "llama.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, arcname=inner or ".")
    staged = repository.stage(archive, name=None)
    assert staged.name == staged.folder.name == "llama"
    assert files(staged.folder) == LLAMA_FILES
    assert not archive.exists()


def test_what_is_not_there_cannot_be_staged(repository: ModelRepository) -> None:
    with pytest.raises(InputError, match="does not exist"):
        repository.stage(repository.incoming / "gone", name=None)


def test_a_drop_that_is_a_link_is_rejected_and_a_copy_of_one_is_not(
    repository: ModelRepository, tmp_path: Path
) -> None:
    original = llama_folder(tmp_path / "home" / "m")
    drop = repository.incoming / "m"
    drop.symlink_to(original)
    with pytest.raises(DropRejected, match="is a link") as rejected:
        repository.stage(drop, name=None)
    target = repository.reject_unstaged(drop, rejected.value)
    assert (target / "m").is_symlink() and files(original) == LLAMA_FILES
    (tmp_path / "link").symlink_to(original)
    staged = repository.stage(tmp_path / "link", name=None)
    assert files(staged.folder) == LLAMA_FILES and not staged.folder.is_symlink()


def test_a_link_has_a_fingerprint_of_its_own(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "m")
    (tmp_path / "link").symlink_to(folder)
    before = fingerprint(tmp_path / "link")
    assert before is not None and before.entries == 1
    (folder / "another").touch()
    assert fingerprint(tmp_path / "link") == before


@pytest.mark.parametrize("way", ["incoming", "repository/.trash/m@1", "rejected"])
def test_a_parent_folder_is_no_drop(repository: ModelRepository, tmp_path: Path, way: str) -> None:
    folder = tmp_path / way
    folder.mkdir(exist_ok=True)
    with pytest.raises(InputError, match=r"ends with '\.\.'"):
        repository.stage(folder / "..", name="m")
    assert folder.exists(), "a move of it would delete all that it holds"


@pytest.mark.parametrize("name", ["origin.json", "reason.json", "removed.json"])
def test_a_drop_with_the_name_of_a_note_is_rejected_with_its_reason(
    repository: ModelRepository, name: str
) -> None:
    drop = llama_folder(repository.incoming / name)
    with pytest.raises(DropRejected, match="not a valid model name") as rejected:
        repository.stage(drop, name=None)
    target = repository.reject_unstaged(drop, rejected.value)
    [(folder, reason)] = repository.rejected_drops()
    assert (folder, reason["model"], reason["reason"]) == (target, name, "name")
    [kept] = [entry for entry in target.iterdir() if entry.is_dir()]
    assert files(kept) == LLAMA_FILES
    assert version_of(repository.published / name) is None


@pytest.mark.parametrize("name", ["-m", "a b", "m@2", "ü", "x" * 129])
def test_invalid_model_name_is_rejected(repository: ModelRepository, name: str) -> None:
    drop = llama_folder(repository.incoming / "m")
    with pytest.raises(DropRejected) as rejected:
        repository.stage(drop, name=name)
    assert rejected.value.reason == "name"
    assert drop.exists()
    assert list(repository.staging.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "name"),
    [("m.tar.gz", "m"), ("m.tgz", "m"), ("m.v1.zip", "m.v1"), ("m.gguf", "m"), ("m", "m")],
)
def test_model_name_of_a_file_has_no_ending(tmp_path: Path, file: str, name: str) -> None:
    (tmp_path / file).touch()
    assert model_name(tmp_path / file) == name


def test_model_name_of_a_folder_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "llama-3.2").mkdir()
    assert model_name(tmp_path / "llama-3.2") == "llama-3.2"


# --- publish ------------------------------------------------------------------------------------


def test_versions_are_published_beside_each_other(repository: ModelRepository) -> None:
    for version in (1, 2):
        drop = llama_folder(repository.incoming / "m", vocab_size=256 * version)
        published = repository.publish(repository.stage(drop, name=None), version=version)
        assert published == repository.path("m", version)
        config = json.loads((published / "config.json").read_text())
        assert config["vocab_size"] == 256 * version
    assert {p.name for p in repository.published.iterdir()} == {".staging", ".trash", "m", "m@2"}
    assert list(repository.staging.iterdir()) == []


def test_the_next_version_is_one_whose_path_is_free(repository: ModelRepository) -> None:
    llama_folder(repository.path("m", 1))
    llama_folder(repository.path("m", 2))
    assert repository.free_version("m", 1) == 3
    assert repository.free_version("m", 4) == 4


@pytest.mark.parametrize(
    ("entry", "means"),
    [
        ("m", ("m", 1)),
        ("m.v1@12", ("m.v1", 12)),
        ("m@", None),
        ("m@x", None),
        ("m@1@2", None),
        ("a b", None),
        ("-m", None),
        ("m@0", None),
        ("m@007", None),
        ("m@" + "9" * 30, None),
        ("m@٣", None),
    ],
)
def test_name_and_version_of_an_entry(entry: str, means: tuple[str, int] | None) -> None:
    assert version_of(Path("/r") / entry) == means


def test_discarded_drop_leaves_nothing_in_staging(
    repository: ModelRepository, tmp_path: Path
) -> None:
    original = llama_folder(tmp_path / "home" / "m")
    repository.discard(repository.stage(original, name=None))
    assert list(repository.staging.iterdir()) == []
    assert files(original) == LLAMA_FILES


# --- reject -------------------------------------------------------------------------------------


def test_rejected_drop_is_kept_with_its_reason(repository: ModelRepository) -> None:
    staged = repository.stage(llama_folder(repository.incoming / "m"), name="mine")
    folder = repository.reject(staged, UNSAFE, digest="sha256:1", asked={"team": "lab"})
    assert repository.find_rejected("mine")[0] == folder
    assert files(folder) == {f"mine/{name}" for name in LLAMA_FILES} | {REASON}
    reason = json.loads((folder / REASON).read_text())
    assert reason.pop("at") > 0
    assert reason == {
        "model": "mine",
        "reason": "pickle",
        "message": "it holds pickles",
        "approvable": True,
        "digest": "sha256:1",
        "team": "lab",
    }
    assert list(repository.staging.iterdir()) == []


def test_rejected_drops_of_one_name_do_not_replace_each_other(repository: ModelRepository) -> None:
    folders = []
    for number in (1, 2):
        staged = repository.stage(llama_folder(repository.incoming / "m"), name=None)
        folders.append(repository.reject(staged, UNSAFE, digest=f"sha256:{number}", asked={}))
        os.utime(folders[-1], (number, number))
    assert [folder.name for folder in folders] == ["m", "m-2"]
    assert {folder for folder, _ in repository.rejected_drops()} == set(folders)
    for number, folder in enumerate(folders, 1):
        found, reason = repository.find_rejected(folder.name)
        assert (found, reason["digest"]) == (folder, f"sha256:{number}")


def test_drop_that_could_not_be_staged_is_kept_under_a_safe_name(
    repository: ModelRepository,
) -> None:
    drop = repository.incoming / "bad name!.zip"
    drop.write_bytes(b"no archive")
    folder = repository.reject_unstaged(drop, DropRejected("no archive", reason="bad-archive"))
    assert folder.name == "bad_name_.zip"
    assert (folder / drop.name).read_bytes() == b"no archive"
    assert not drop.exists()


def test_unknown_rejected_drop_is_an_input_error(repository: ModelRepository) -> None:
    with pytest.raises(InputError, match="no rejected drop is called 'm'"):
        repository.find_rejected("m")


def test_readmitted_drop_can_be_staged_again(repository: ModelRepository) -> None:
    staged = repository.stage(llama_folder(repository.incoming / "m"), name=None)
    folder = repository.reject(staged, UNSAFE, digest="", asked={})
    staged = repository.stage(repository.readmit(folder), name="m")
    assert files(staged.folder) == LLAMA_FILES
    assert not list(repository.rejected.iterdir()), "no copy is left behind"


def test_folder_with_several_drops_is_not_readmitted(repository: ModelRepository) -> None:
    folder = repository.rejected / "m"
    for name in ("a", "b"):
        llama_folder(folder / name)
    with pytest.raises(InputError, match="2 drops"):
        repository.readmit(folder)
    assert files(folder) == {f"{d}/{name}" for d in "ab" for name in LLAMA_FILES}


# --- recover ------------------------------------------------------------------------------------


def test_recovery_returns_moved_drops_and_deletes_copies(
    repository: ModelRepository, tmp_path: Path
) -> None:
    original = llama_folder(tmp_path / "home" / "copied")
    repository.stage(llama_folder(repository.incoming / "moved"), name=None)
    repository.stage(original, name=None)
    assert repository.recover() == [repository.incoming / "moved"]
    assert files(repository.incoming) == {f"moved/{name}" for name in LLAMA_FILES}
    assert files(original) == LLAMA_FILES
    assert list(repository.staging.iterdir()) == []


def test_recovery_returns_a_drop_without_a_readable_origin(repository: ModelRepository) -> None:
    llama_folder(repository.staging / "cafe" / "m")
    assert repository.recover() == [repository.incoming / "m"]


def test_recovery_does_not_replace_a_newer_drop(repository: ModelRepository) -> None:
    repository.stage(llama_folder(repository.incoming / "m"), name=None)
    newer = llama_folder(repository.incoming / "m", vocab_size=512)
    assert repository.recover() == []
    assert '"vocab_size": 512' in (newer / "config.json").read_text()
    kept, reason = repository.find_rejected("m")
    assert files(kept / "m") == LLAMA_FILES
    assert reason["reason"] == "interrupted"


@pytest.fixture
def apart(repository: ModelRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the repository, the drop zone and the rejected drops on file systems of their own."""
    own = os.rename

    def rename(source: Path, target: Path) -> None:
        roots = (repository.published, repository.incoming, repository.rejected)
        places = [next(r for r in roots if Path(p).is_relative_to(r)) for p in (source, target)]
        if places[0] != places[1]:
            raise OSError(18, "Invalid cross-device link")
        own(source, target)

    monkeypatch.setattr(os, "rename", rename)


@pytest.mark.usefixtures("apart")
def test_drop_moves_over_file_systems(repository: ModelRepository) -> None:
    drop = llama_folder(repository.incoming / "m")
    staged = repository.stage(drop, name=None)
    assert files(staged.folder) == LLAMA_FILES
    assert not list(repository.incoming.iterdir())


@pytest.mark.usefixtures("apart")
def test_rejected_drop_moves_over_file_systems(repository: ModelRepository) -> None:
    staged = repository.stage(llama_folder(repository.incoming / "m"), name=None)
    kept = repository.reject(staged, UNSAFE, digest="", asked={})
    assert files(kept) == {REASON, *(f"m/{name}" for name in LLAMA_FILES)}
    assert not list(repository.staging.iterdir())


@pytest.mark.usefixtures("apart")
def test_recovery_moves_over_file_systems(repository: ModelRepository) -> None:
    repository.stage(llama_folder(repository.incoming / "m"), name=None)
    assert repository.recover() == [repository.incoming / "m"]
    assert files(repository.incoming) == {f"m/{name}" for name in LLAMA_FILES}
    assert not list(repository.staging.iterdir())


@pytest.mark.usefixtures("apart")
def test_a_disk_that_is_full_leaves_the_drop_and_no_half_copy(
    repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = llama_folder(repository.incoming / "m")

    def full(*_args: object, **_given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copying, "_copy_entry", full)
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space"):
        repository.stage(drop, name=None)
    assert files(drop) == LLAMA_FILES
    assert not list(repository.staging.iterdir())


def test_a_reason_that_does_not_fit_the_disk_leaves_the_drop_in_staging(
    repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = repository.stage(llama_folder(repository.incoming / "m"), name=None)

    def full(*_args: object, **_given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            repository.reject(staged, UNSAFE, digest="", asked={})
    assert not list(repository.rejected.iterdir())
    assert repository.recover() == [repository.incoming / "m"]


def test_one_drop_that_cannot_be_recovered_costs_no_other(
    repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        repository.stage(llama_folder(repository.incoming / name), name=None)
    own = os.rename

    def rename(source: Path, target: Path) -> None:
        if Path(source).name == "a":
            raise OSError(5, "Input/output error")
        own(source, target)

    def broken(source: Path, *_args: object, **_given: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        patch.setattr(copying, "_copy_entry", broken)
        assert repository.recover() == [repository.incoming / "b"]
    assert repository.recover() == [repository.incoming / "a"]


def test_a_drop_of_another_user_is_copied_and_stays_whole(
    unprivileged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = ModelRepository(
        config=Orchestration(
            model_repository=unprivileged / "repository",
            incoming_directory=unprivileged / "incoming",
            rejected_directory=unprivileged / "rejected",
        )
    )
    drop = llama_folder(own.incoming / "m")
    (drop / "open").mkdir()
    (drop / "open" / "notes.txt").write_text("everybody may delete this")
    drop.chmod(0o555)
    staged = own.stage(drop, name=None)
    assert not staged.moved and files(staged.folder) == files(drop)
    assert len(files(drop)) == 3
    assert "may not be deleted" in caplog.text
    own.publish(staged, version=1)
    assert own.recover() == []
