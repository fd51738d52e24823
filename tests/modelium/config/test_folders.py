"""Folders that cannot be made or written: one sentence, the same from every command."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelium.config import Config
from modelium.config.folders import close_to_others, find_problem, folders, make, problems
from modelium.errors import ConfigError

FIELD = "orchestration.model_repository"
NOBODY = 65534


def refused(folder: Path) -> str:
    """Why ``folder`` cannot be used, as doctor and as start-up say it."""
    problem = find_problem(FIELD, folder)
    with pytest.raises(ConfigError) as raised:
        make(FIELD, folder)
    assert str(raised.value) == problem
    assert problem.startswith(f"{FIELD}: cannot ") and "\n" not in problem
    assert f"set {FIELD} to another folder" in problem
    return problem


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[Path]:
    """A folder of root's, seen by a user who may not write to it."""
    with tempfile.TemporaryDirectory() as made:  # pytest's own folders are closed to others
        folder = Path(made)
        if os.geteuid() != 0:
            folder.chmod(0o555)
            yield folder
            folder.chmod(0o755)
            return
        folder.chmod(0o755)
        os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(0)


def test_a_folder_that_can_be_made_is_fine_and_not_made(tmp_path: Path) -> None:
    assert find_problem(FIELD, tmp_path / "a" / "b") is None
    assert find_problem(FIELD, tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    make(FIELD, tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_the_state_directory_is_made_for_this_user_alone(tmp_path: Path) -> None:
    make("orchestration.state_directory", tmp_path / "data" / "state")
    make("orchestration.incoming_directory", tmp_path / "data" / "incoming")
    assert (tmp_path / "data" / "state").stat().st_mode & 0o077 == 0
    assert (tmp_path / "data" / "incoming").stat().st_mode & 0o055, "others drop models"


def test_a_state_directory_that_was_open_is_closed_and_others_are_not(tmp_path: Path) -> None:
    for name in ("state", "incoming"):
        (tmp_path / name).mkdir(mode=0o755)
        (tmp_path / name / "service.pid").touch(mode=0o644)
    close_to_others(
        Config.model_validate(
            {
                "orchestration": {
                    "state_directory": str(tmp_path / "state"),
                    "incoming_directory": str(tmp_path / "incoming"),
                    "model_repository": str(tmp_path / "repository"),
                }
            }
        )
    )
    modes = {p: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*")}
    assert modes == {
        tmp_path / "state": 0o700,
        tmp_path / "state" / "service.pid": 0o600,
        tmp_path / "incoming": 0o755,
        tmp_path / "incoming" / "service.pid": 0o644,
    }


def test_a_state_directory_around_the_drop_zone_stays_open_for_droppers(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data" / "modelium.db").touch(mode=0o644)
    orchestration = {
        "state_directory": str(tmp_path / "data"),
        "incoming_directory": str(tmp_path / "data" / "incoming"),
        "model_repository": str(tmp_path / "repository"),
    }
    close_to_others(Config.model_validate({"orchestration": orchestration}))
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "data" / "modelium.db").stat().st_mode & 0o777 == 0o600


def test_a_folder_where_no_folder_can_be(tmp_path: Path) -> None:
    problem = refused(Path("/proc/modelium/repository"))
    assert "cannot make /proc/modelium/repository (No such file or directory)" in problem


@pytest.mark.parametrize("below", ["", "repository"])
def test_a_file_in_the_place_of_a_folder(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    problem = refused(tmp_path / "file" / below)
    assert f"{tmp_path}/file is not a folder: move it away" in problem


@pytest.mark.parametrize(("below", "verb"), [("", "write to"), ("a/b", "make")])
def test_a_folder_of_somebody_else(unprivileged: Path, below: str, verb: str) -> None:
    problem = refused(unprivileged / below)
    assert f"cannot {verb} {unprivileged / below} (Permission denied)" in problem
    assert f"write to {unprivileged}, or" in problem


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EROFS, "mount the file system of"),
        (errno.ENOSPC, "free space on the file system of"),
        (errno.EDQUOT, "free space on the file system of"),
    ],
)
def test_a_file_system_that_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def fail(**_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    assert advice in refused(tmp_path)


def test_all_folders_are_checked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    names = ("model_repository", "incoming_directory", "rejected_directory", "state_directory")
    config = Config.model_validate(
        {"orchestration": {name: str(tmp_path / "file" / name) for name in names}}
    )
    assert [name.partition(".")[2] for name in folders(config)] == list(names)
    assert [problem.partition(":")[0] for problem in problems(config)] == list(folders(config))
