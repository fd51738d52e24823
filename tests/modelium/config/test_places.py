"""Where the folders are by default."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelium.config import Config
from modelium.config.places import default_root


def test_a_shared_folder_is_used_where_it_is_writable(tmp_path: Path) -> None:
    assert default_root(tmp_path, environ={}) == tmp_path


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({"XDG_DATA_HOME": "/data"}, "/data/modelium/models"),
        ({"HOME": "/home/me"}, "/home/me/.local/share/modelium/models"),
        ({"HOME": "/home/me", "XDG_DATA_HOME": "rel"}, "/home/me/.local/share/modelium/models"),
        ({"HOME": "/home/me", "XDG_DATA_HOME": ""}, "/home/me/.local/share/modelium/models"),
    ],
)
def test_a_user_without_one_gets_a_folder_of_their_own(
    tmp_path: Path, environ: dict[str, str], root: str
) -> None:
    (tmp_path / "models").touch()
    for shared in (tmp_path / "missing", tmp_path / "models"):
        assert default_root(shared, environ=environ) == Path(root)


def test_a_shared_folder_that_is_not_writable_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert default_root(tmp_path, environ={"XDG_DATA_HOME": "/data"}).is_relative_to("/data")


def test_all_folders_are_beside_each_other() -> None:
    orchestration = Config().orchestration
    folders = (
        orchestration.model_repository,
        orchestration.incoming_directory,
        orchestration.rejected,
        orchestration.state,
    )
    assert {folder.parent for folder in folders} == {default_root()}
