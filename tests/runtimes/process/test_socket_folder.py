"""Folders for Unix sockets."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import pytest

from modelium.errors import Unavailable
from runtimes.process.socket_folder import LONGEST_PATH, make_private, socket_folder


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``tmp_path`` in the place of /tmp."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.usefixtures("shared")
def test_a_path_that_is_too_long_for_sockets_has_a_short_folder_of_the_user(
    tmp_path: Path,
) -> None:
    fits = Path("/" + "x" * (LONGEST_PATH - 7))
    assert socket_folder(fits, longest_name=5) == fits
    other = socket_folder(fits, longest_name=6)
    assert other.parent == tmp_path
    assert len(other.name) == len("modelium-") + 6 + 8
    assert other.stat().st_mode & 0o777 == 0o700
    assert other == socket_folder(fits, longest_name=6), "the same after a restart"
    assert other != socket_folder(fits.with_name("y" * len(fits.name)), longest_name=6)


@pytest.mark.usefixtures("shared")
def test_what_others_laid_in_the_shared_folder_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a link nor a folder of another user with the right name keeps an engine away."""
    beside = Path("/" + "x" * LONGEST_PATH)
    digest = hashlib.sha256(bytes(beside)).hexdigest()[:6]
    (tmp_path / "elsewhere").mkdir()
    uid = os.getuid()
    taken = [tmp_path / f"modelium-{digest}", tmp_path / f"modelium-{digest}00000000"]
    for name in taken:
        name.symlink_to(tmp_path / "elsewhere")
    first = socket_folder(beside, longest_name=6)
    make_private(first)
    assert first not in taken

    other = uid + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    assert socket_folder(beside, longest_name=6) not in (first, *taken), "it is another user's"


def test_a_private_folder_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "a/run"
    make_private(folder)
    folder.chmod(0o755)
    make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_private_folder_is_never_open_to_others(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private(tmp_path / "run")
    finally:
        os.umask(before)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_a_folder_of_another_user_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(Unavailable) as failure:
        make_private(tmp_path)
    assert str(failure.value) == (
        f"{tmp_path} is not a folder of this user: remove it, then try again"
    )


def test_a_folder_that_somebody_laid_first_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="not a folder of this user"):
        make_private(tmp_path / "run")
