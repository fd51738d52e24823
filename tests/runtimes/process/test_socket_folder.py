"""Folders for Unix sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.errors import Unavailable
from runtimes.process.socket_folder import LONGEST_PATH, make_private, socket_folder


def test_a_path_that_is_too_long_for_sockets_has_a_short_folder_of_the_user() -> None:
    fits = Path("/" + "x" * (LONGEST_PATH - 7))
    assert socket_folder(fits, longest_name=5) == fits
    other = socket_folder(fits, longest_name=6)
    assert other != fits
    assert other == socket_folder(fits, longest_name=6), "the same after a restart"
    assert other != socket_folder(fits.with_name("y" * len(fits.name)), longest_name=6)


def test_a_private_folder_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "a/run"
    make_private(folder)
    folder.chmod(0o755)
    make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_somebody_laid_first_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="not a folder of this user"):
        make_private(tmp_path / "run")
