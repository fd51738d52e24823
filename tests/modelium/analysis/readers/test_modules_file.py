"""The parts of a sentence-transformers model stay in its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelium.analysis.readers.folder import Folder
from modelium.analysis.readers.modules_file import MAX_BYTES, refuse_foreign_modules
from modelium.errors import DropRejected


def refused(root: Path) -> tuple[str, str]:
    with pytest.raises(DropRejected) as caught:
        refuse_foreign_modules(Folder(root))
    return str(caught.value), caught.value.reason


NO_LIST = "is no list of modules. Copy it again."
OUTSIDE = "which is outside the model's folder. Put the module into the folder."


def test_only_files_of_that_name_are_read(tmp_path: Path) -> None:
    for name in ("a.json", "xmodules.json", "z.json"):
        (tmp_path / name).write_text("no JSON")
    refuse_foreign_modules(Folder(tmp_path))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "modules.json").write_text("no JSON")
    assert refused(tmp_path) == (f"sub/modules.json {NO_LIST}", "bad-json")


@pytest.mark.parametrize("path", ["", "/", "1_Pooling", "a/b/", "a//"])
def test_parts_in_the_folder_are_taken(tmp_path: Path, path: str) -> None:
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0}, {"path": path}]))
    refuse_foreign_modules(Folder(tmp_path))


@pytest.mark.parametrize("path", ["..\n", "/etc", 7, None, ["a"]])
def test_parts_outside_of_it_are_refused(tmp_path: Path, path: object) -> None:
    (tmp_path / "modules.json").write_text(json.dumps([{"path": "a"}, {"path": path}]))
    shown = str(path).replace("\n", "?")
    assert refused(tmp_path) == (
        f"modules.json refers to {shown!r}, {OUTSIDE}",
        "path-traversal",
    )


def test_a_list_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]".ljust(MAX_BYTES))
    refuse_foreign_modules(Folder(tmp_path))
    (tmp_path / "modules.json").write_text("[]".ljust(MAX_BYTES + 1))
    assert refused(tmp_path) == (f"modules.json {NO_LIST}", "bad-json")
