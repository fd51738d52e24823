"""Files that are this user's alone."""

from __future__ import annotations

import stat
from pathlib import Path

from modelium import private


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_that_was_open_is_closed(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    private.folder(tmp_path / "state")
    private.folder(tmp_path / "fresh" / "deep")
    assert mode(tmp_path / "state") == mode(tmp_path / "fresh" / "deep") == 0o700


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "others").touch(mode=0o644)
    (tmp_path / "link").symlink_to("others")
    private.tighten(tmp_path / "link")
    assert mode(tmp_path / "others") == 0o644


def test_what_is_written_was_never_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o644)
    private.write(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert mode(tmp_path / "file") == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_doors_are_what_others_can_go_through(tmp_path: Path) -> None:
    state = tmp_path / "shared" / "state"
    private.folder(state)
    assert list(private.doors(state)) == []
    (tmp_path / "shared").chmod(0o777)
    (door,) = private.doors(state)
    assert door.endswith(f"chmod go-w {tmp_path / 'shared'}")
    (tmp_path / "shared").chmod(0o1777)  # as /tmp is: nobody renames what others made there
    assert list(private.doors(state)) == []
    state.chmod(0o750)
    (door,) = private.doors(state)
    assert door == f"{state} is open to other users (750): chmod go= {state}"
