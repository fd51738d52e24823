"""Copies of the store, and the way back; stores of earlier Modelium."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config as AlembicConfig

from modelium.errors import InputError
from modelium.lifecycle import ModelState
from modelium.models import Priority
from modelium.store import Store, backup
from modelium.store.connection import MIGRATIONS, connect
from tests.modelium.store.conftest import ON_POSTGRESQL

TERMS: dict[str, Any] = {
    "team": "research",
    "priority": Priority.LOW,
    "priority_ceiling": Priority.MEDIUM,
    "pinned": False,
}


@pytest.fixture
def url(sqlite_url: str) -> str:
    return sqlite_url


def opened(url: str) -> Store:
    return Store.open(url, now=lambda: 1.0)


def test_a_copy_made_while_others_write_is_one_state_and_comes_back(
    url: str, tmp_path: Path
) -> None:
    store = opened(url)
    (tmp_path / "a").mkdir()
    store.register("a", path=tmp_path / "a", digest="sha256:1", **TERMS)
    store.register("b", path=tmp_path / "gone", digest="sha256:2", **TERMS)
    stop, begun = threading.Event(), threading.Event()

    def write() -> None:
        while not stop.is_set():
            store.rules.set_pinned("a", True)
            begun.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        begun.wait()
        made = backup.write(url, tmp_path / "copy")
    finally:
        stop.set()
        writer.join()
    assert backup.look(tmp_path / "copy") == made
    assert (made.versions, made.missing) == (2, (str(tmp_path / "gone"),))
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.glob("*copy*")) == ["copy"], "nothing beside it"
    store.rules.set_pinned("b", True)
    store.events.append("after")
    store.close()

    _, old = backup.restore(url, tmp_path / "copy")
    again = opened(url)
    assert {m.name: (m.pinned, m.digest) for m in again.view()[1]} == {
        "a": (True, "sha256:1"),
        "b": (False, "sha256:2"),
    }
    assert again.events.newest() == []
    again.close()
    assert old is not None
    kept = opened(f"sqlite:///{old}")
    assert kept.model("b").pinned
    assert [event.kind for event in kept.events.newest()] == ["after"]
    kept.close()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_others_planted_beside_a_copy_is_not_written_to(
    url: str, tmp_path: Path, kind: str
) -> None:
    opened(url).close()
    (tmp_path / "precious").write_text("precious")
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    planted = shared / f".copy.{os.getpid()}"  # the one name that could be foreseen
    if kind == "link":
        planted.symlink_to(tmp_path / "precious")
    else:
        planted.touch(mode=0o666)
    planted_by = planted.lstat().st_ino
    backup.write(url, shared / "copy")
    assert (tmp_path / "precious").read_text() == "precious"
    made = (shared / "copy").lstat()
    assert (made.st_mode & 0o7777, stat.S_ISREG(made.st_mode)) == (0o600, True)
    assert made.st_ino != planted_by
    assert sorted(p.name for p in shared.iterdir()) == [planted.name, "copy"]


def test_a_path_may_have_any_character(tmp_path: Path) -> None:
    folder = tmp_path / "50% of #1"
    folder.mkdir()
    url = f"sqlite:///{folder}/modelium.db"
    opened(url).close()
    made = backup.write(url, folder / "a#b?c%41.db")
    assert backup.look(folder / "a#b?c%41.db") == made
    assert backup.restore(url, folder / "a#b?c%41.db")[0].schema == made.schema
    assert {p.name for p in tmp_path.iterdir()} == {folder.name}


def test_nothing_is_written_over(url: str, tmp_path: Path) -> None:
    opened(url).close()
    (tmp_path / "copy").write_text("precious")
    with pytest.raises(InputError, match="is there already"):
        backup.write(url, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "precious"
    with pytest.raises(InputError, match=r"cannot write .*/no/copy"):
        backup.write(url, tmp_path / "no" / "copy")


def test_a_store_in_use_is_not_replaced(url: str, tmp_path: Path) -> None:
    store = opened(url)
    backup.write(url, tmp_path / "copy")
    with store.exclusive(), pytest.raises(InputError, match="another Modelium service uses"):
        backup.restore(url, tmp_path / "copy")
    store.close()


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"this is no database" * 400, "is no copy of a store"), (b"", "is no copy of a store")],
)
def test_what_is_no_copy_changes_nothing(
    url: str, tmp_path: Path, content: bytes, told: str
) -> None:
    store = opened(url)
    store.register("a", path=tmp_path, digest="sha256:1", **TERMS)
    store.close()
    (tmp_path / "copy").write_bytes(content)
    with pytest.raises(InputError, match=told):
        backup.restore(url, tmp_path / "copy")
    again = opened(url)
    assert again.names() == {"a"}
    again.close()


def test_a_copy_of_a_newer_modelium_is_refused(url: str, tmp_path: Path) -> None:
    opened(url).close()
    backup.write(url, tmp_path / "copy")
    with closing(sqlite3.connect(tmp_path / "copy")) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
        newer.commit()
    with pytest.raises(InputError, match=r"written by a newer Modelium \(tables 9999\)"):
        backup.restore(url, tmp_path / "copy")


def test_a_damaged_store_is_kept_as_it_is(url: str, tmp_path: Path) -> None:
    opened(url).close()
    backup.write(url, tmp_path / "copy")
    Path(url.removeprefix("sqlite:///")).write_bytes(b"damaged" * 1000)
    _, old = backup.restore(url, tmp_path / "copy")
    assert old is not None and old.read_bytes() == b"damaged" * 1000
    opened(url).close()


def test_another_database_has_tools_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pg_dump") as told:
        backup.write("postgresql://me:s3cret@db/modelium", tmp_path / "copy")
    assert "s3cret" not in str(told.value)


REVISIONS = sorted(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_store_of_every_earlier_schema_comes_up_with_its_data(
    tmp_path: Path, revision: str
) -> None:
    url = f"sqlite:///{tmp_path}/earlier.db"
    _of_earlier(url, revision)
    copied = backup.write(url, tmp_path / "copy")
    assert (copied.schema, copied.versions) == (revision, 1)
    for place in (url, f"sqlite:///{tmp_path}/restored.db"):
        if place != url:
            backup.restore(place, tmp_path / "copy")
        _comes_up(place)


@pytest.mark.parametrize("empty_url", [ON_POSTGRESQL], indirect=True)
@pytest.mark.parametrize("revision", REVISIONS)
def test_so_does_one_on_postgresql(empty_url: str, revision: str) -> None:
    _of_earlier(empty_url, revision)
    _comes_up(empty_url)


def _comes_up(url: str) -> None:
    store = opened(url)
    model = store.model("old")
    assert (model.state, model.version, model.digest) == (ModelState.UNLOADED, 3, "sha256:old")
    assert (model.team, model.priority, model.pinned) == ("research", Priority.HIGH, True)
    assert store.view()[0] == 7
    assert store.lineage.versions("old")[0].path == "/models/old"
    assert store.events.newest()[0].detail == {"runtime": "vllm"}
    store.register("new", path=Path("/models/new"), digest="sha256:new", **TERMS)
    store.close()


def _of_earlier(url: str, revision: str) -> None:
    """Make the store of an earlier Modelium, with a model, a version and an event."""
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = connect(url)
    with engine.begin() as tx:
        config.attributes["connection"] = tx
        command.upgrade(config, revision)
        for statement in (
            "UPDATE meta SET value = 7 WHERE key = 'revision'",
            "INSERT INTO models (name, version, state, state_since, registered_at, team, priority,"
            " priority_ceiling, pinned, failures, reason)"
            " VALUES ('old', 3, 'unloaded', 1, 1, 'research', 'high', 'high', true, 0, '')",
            "INSERT INTO versions (model, version, path, digest, registered_at)"
            " VALUES ('old', 3, '/models/old', 'sha256:old', 1)",
            "INSERT INTO events (at, kind, model, detail)"
            " VALUES (1, 'model.ready', 'old', '{\"runtime\": \"vllm\"}')",
        ):
            tx.exec_driver_sql(statement)
    engine.dispose()


def test_a_removed_version_is_neither_counted_nor_missed(url: str, tmp_path: Path) -> None:
    store = opened(url)
    for number in (3, 1, 2):
        path = tmp_path / f"gone{number}"
        store.register("a", path=path, digest=f"sha256:{number}", **TERMS)
    store.lineage.retire("a", [1], by="me")
    store.close()
    made = backup.write(url, tmp_path / "copy")
    assert made.file == str(tmp_path / "copy")
    assert (made.versions, made.missing) == (2, (str(tmp_path / "gone1"), str(tmp_path / "gone2")))


def test_what_is_not_there_is_neither_copied_nor_put_back(url: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"there is no store at .*/none.db; name the configuration"
    ):
        backup.write(f"sqlite:///{tmp_path}/none.db", tmp_path / "copy")
    with pytest.raises(InputError, match="copy: no such file"):
        backup.restore(url, tmp_path / "copy")
    for call in (backup.write, backup.restore):
        with pytest.raises(InputError, match="the store is no SQLite file but sqlite://"):
            call("sqlite://", tmp_path / "copy")


@pytest.mark.parametrize("empty", [False, True])
def test_a_store_is_put_back_where_there_is_none(url: str, tmp_path: Path, empty: bool) -> None:
    opened(url).close()
    backup.write(url, tmp_path / "copy")
    target = tmp_path / "new" / "modelium.db"
    if empty:
        target.parent.mkdir()
        target.touch()
    found, old = backup.restore(f"sqlite:///{target}", tmp_path / "copy")
    assert (found.file, old) == (str(target), None)
    assert sorted(p.name for p in target.parent.iterdir()) == ["modelium.db", "modelium.db.lock"]
