"""The folder of rejected drops: one folder each, the reason first."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from modelium.config import Orchestration
from modelium.errors import DropRejected, InputError
from modelium.intake import rejects as module
from modelium.intake.moving import COPYING, TAKEN
from modelium.intake.names import REASON
from modelium.intake.rejected import rejected
from modelium.intake.rejects import Rejects, drop_empty, only_drop
from modelium.intake.repository import ModelRepository
from modelium.models import Drop, DropState

UNSAFE = DropRejected("it holds pickles", reason="pickle", approvable=True)


@pytest.fixture
def rejects(tmp_path: Path) -> Rejects:
    (tmp_path / "rejected").mkdir()
    return Rejects(folder=tmp_path / "rejected")


def put(rejects: Rejects, name: str, *, model: str = "", at: float = 0) -> Path:
    """A rejected drop that was last changed at ``at``."""
    folder = rejects.folder / name
    folder.mkdir()
    (folder / REASON).write_text(json.dumps({"model": model or name}))
    (folder / "drop").touch()
    os.utime(folder, (at, at))
    return folder


def test_the_reason_is_noted_before_the_drop_comes(rejects: Rejects) -> None:
    before = time.time()
    folder = rejects.make("my model/ü", UNSAFE, asked={"team": "lab", "name": None})
    assert folder == rejects.folder / "my_model__"
    reason = json.loads((folder / REASON).read_text())
    assert before <= reason.pop("at") <= time.time()
    assert reason == {
        "model": "my model/ü",
        "reason": "pickle",
        "message": "it holds pickles",
        "approvable": True,
        "digest": "",
        "team": "lab",
        "name": None,
    }
    assert rejects.make("x" * 101, UNSAFE, digest="d").name == "x" * 100


def test_folders_of_one_name_are_numbered(
    rejects: Rejects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ALIKE", 3)
    assert [rejects.make("m", UNSAFE).name for _ in range(3)] == ["m", "m-2", "m-3"]
    with pytest.raises(InputError) as caught:
        rejects.make("m", UNSAFE)
    assert str(caught.value) == f"3 entries are called m; delete old ones in {rejects.folder}"
    (rejects.folder / "n").symlink_to("nowhere")
    assert rejects.make("n", UNSAFE).name == "n-2"


def test_only_folders_with_a_reason_and_a_drop_are_listed(rejects: Rejects) -> None:
    whole = put(rejects, "m")
    (rejects.folder / "file").touch()
    (put(rejects, "no-reason") / REASON).unlink()
    (put(rejects, "bad-reason") / REASON).write_text("{")
    (put(rejects, "no-drop") / "drop").unlink()
    (rejects.folder / "no-drop" / f"{COPYING}1").touch()
    (rejects.folder / "no-drop" / f"{TAKEN}1").touch()
    assert list(rejects.all()) == [(whole, {"model": "m"})]


def test_a_folder_is_meant_before_a_model_and_different_drops_are_told_apart(
    rejects: Rejects,
) -> None:
    for name, digest, at in (("m", "1", 1), ("m-2", "2", 2), ("m-3", "2", 3)):
        reason = {"model": "m", "digest": digest}
        (put(rejects, name) / REASON).write_text(json.dumps(reason))
        os.utime(rejects.folder / name, (at, at))
    for name in ("m", "m-2", "m-3"):
        assert rejects.find(name)[0] == rejects.folder / name
    (rejects.folder / "m").rename(rejects.folder / "x")
    with pytest.raises(InputError) as caught:
        rejects.find("m")
    assert str(caught.value) == (
        "several drops called 'm' were rejected; name the folder of the one that is meant: "
        "m-2, m-3, x"
    )
    (rejects.folder / "x" / "drop").unlink()
    assert rejects.find("m")[0] == rejects.folder / "m-3", "both hold the same"


def test_the_newest_of_a_name_is_found(rejects: Rejects) -> None:
    for name, model, at in (("a", "m", 2), ("b", "m", 3), ("c", "m", 1), ("d", "n", 9)):
        put(rejects, name, model=model, at=at)
    assert rejects.find("m") == (rejects.folder / "b", {"model": "m"})
    assert rejects.find("c") == (rejects.folder / "c", {"model": "m"})
    with pytest.raises(InputError) as caught:
        rejects.find("x")
    why = f"no rejected drop is called 'x'; they are listed in {rejects.folder}"
    assert str(caught.value) == why


def test_what_a_crash_has_left_is_deleted(rejects: Rejects) -> None:
    whole = put(rejects, "m")
    (whole / f"{COPYING}1").touch()
    (put(rejects, "no-drop") / "drop").unlink()
    (rejects.folder / "no-drop" / f"{TAKEN}1").mkdir()
    (rejects.folder / f"{COPYING}2").touch()
    (put(rejects, "theirs") / REASON).unlink()
    (rejects.folder / "theirs" / f"{COPYING}3").touch()
    (rejects.folder / "file").touch()
    rejects.recover()
    assert sorted(str(p.relative_to(rejects.folder)) for p in rejects.folder.rglob("*")) == [
        "file",
        "m",
        "m/drop",
        "m/reason.json",
        "theirs",
        f"theirs/{COPYING}3",
        "theirs/drop",
    ]


@pytest.mark.parametrize("names", [[], ["a", "b"]])
def test_a_folder_of_one_drop_is_readmitted(rejects: Rejects, names: list[str]) -> None:
    folder = put(rejects, "m")
    (folder / f"{TAKEN}1").touch()
    assert only_drop(folder) == folder / "drop"
    (folder / "drop").unlink()
    for name in names:
        (folder / name).touch()
    with pytest.raises(InputError) as caught:
        only_drop(folder)
    assert str(caught.value) == (
        f"{folder} holds {len(names)} drops instead of one beside reason.json; "
        "move the one to retry into the drop zone"
    )


def test_only_a_folder_without_its_drop_is_deleted(rejects: Rejects) -> None:
    folder = put(rejects, "m")
    drop_empty(folder)
    assert (folder / "drop").exists()
    (folder / "drop").unlink()
    drop_empty(folder)
    assert not folder.exists()


def test_rejected_drops_are_described_the_newest_first(tmp_path: Path) -> None:
    repository = ModelRepository(
        config=Orchestration(
            model_repository=tmp_path / "repository",
            incoming_directory=tmp_path / "incoming",
            rejected_directory=tmp_path / "rejected",
        )
    )
    rejects = Rejects(folder=tmp_path / "rejected")
    (put(rejects, "a") / REASON).write_text("{}")
    (put(rejects, "b") / REASON).write_text(
        json.dumps({"model": "m", "at": 7, "reason": "pickle", "message": "why",
                    "approvable": True, "digest": "sha256:1"})
    )  # fmt: skip
    (put(rejects, "c") / REASON).write_text(json.dumps({"model": None, "at": "8"}))
    (put(rejects, "d") / REASON).write_text(json.dumps({"at": 9.5}))
    found = rejected(repository)
    assert [drop.name for drop in found[:2]] == ["d", "b"]
    assert {drop.name: (drop.model, drop.since) for drop in found} == {
        "a": ("a", 0.0),
        "b": ("m", 7.0),
        "c": ("c", 0.0),
        "d": ("d", 9.5),
    }
    place = str(rejects.folder / "b")
    assert found[1] == Drop(
        name="b", model="m", state=DropState.REJECTED, path=place, since=7.0, rule="pickle",
        reason="why", approvable=True, digest="sha256:1",
    )  # fmt: skip
    place = str(rejects.folder / "d")
    assert found[0] == Drop(
        name="d", model="d", state=DropState.REJECTED, path=place, since=9.5, rule="", reason="",
        approvable=False, digest="",
    )  # fmt: skip
