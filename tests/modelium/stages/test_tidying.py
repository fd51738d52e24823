"""Which old versions go, and in which order; the files of what is removed are moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelium.models import GIB, Deployment, LoadSettings, Model, Removal, RuntimeName, Version
from modelium.stages import tidying
from modelium.stages.tidying import in_use, move_removed, surplus, tidy
from tests.fakes import fleets
from tests.modelium.conftest import World
from tests.modelium.stages.rows import configured, events, registered


def version(number: int, *, model: str = "m", at: float | None = None) -> Version:
    registered_at = float(number) if at is None else at
    return Version(
        model=model,
        version=number,
        path=f"/repository/{model}@{number}",
        digest=f"sha256:{number}",
        registered_at=registered_at,
    )


def model(name: str = "m", *, current: int = 5, loaded: int | None = None, **given: Any) -> Model:
    deployment = None
    if loaded is not None:
        deployment = Deployment(
            model=name,
            version=loaded,
            runtime=RuntimeName.VLLM,
            devices=("n/g0",),
            settings=LoadSettings(),
            started_at=0.0,
        )
    return fleets.model(name, version=current, deployment=deployment, **given)


FIVE = [version(number) for number in (5, 4, 3, 2, 1)]
"""As the store lists them: the newest first."""


def left(keep: int, record: Model | None = None, **aliases: str) -> list[int]:
    return [each.version for each in surplus(FIVE, {"m": record or model()}, aliases, keep=keep)]


@pytest.mark.parametrize(
    ("keep", "gone"),
    [(1, [1, 2, 3, 4]), (2, [1, 2, 3]), (4, [1]), (5, []), (9, [])],
)
def test_the_oldest_versions_beyond_those_to_keep_go_first(keep: int, gone: list[int]) -> None:
    assert left(keep) == gone


def test_the_current_version_is_one_of_those_to_keep_wherever_it_stands() -> None:
    assert left(2, model(current=1)) == [2, 3, 4]
    assert left(1, model(current=3)) == [1, 2, 4, 5]


def test_a_version_that_is_loaded_or_named_stays() -> None:
    assert left(1, model(loaded=2)) == [1, 3, 4]
    assert left(1, first="m:1", newest="m", other="another:3", nobody="m2:4") == [2, 3, 4]


@pytest.mark.parametrize(
    "record", [None, model(removal=Removal(by="me", at=0.0))], ids=["unknown", "being removed"]
)
def test_versions_of_a_model_that_is_no_more_or_goes_itself_are_no_surplus(
    record: Model | None,
) -> None:
    versions = [version(2, model="a"), version(1, model="a"), version(2), version(1)]
    models = {"m": model(current=2)} | ({"a": record} if record else {})
    assert surplus(versions, models, {}, keep=1) == [version(1)]


def test_the_oldest_of_all_models_is_the_first() -> None:
    versions = [version(2, model="a", at=40.0), version(1, model="a", at=30.0)]
    versions += [version(2, at=20.0), version(1, at=10.0)]
    models = {"a": model("a", current=3), "m": model(current=3)}
    assert [(v.model, v.version) for v in surplus(versions, models, {}, keep=1)] == [
        ("m", 1),
        ("m", 2),
        ("a", 1),
        ("a", 2),
    ]


def test_what_is_current_loaded_or_named_is_in_use() -> None:
    assert in_use(model(current=5), {}) == {5}
    assert in_use(model(current=5, loaded=4), {}) == {4, 5}
    aliases = {"a": "m:3", "b": "m", "c": "other:2", "d": "m:1"}
    assert in_use(model(current=5, loaded=4), aliases) == {1, 3, 4, 5}


# --- the files ------------------------------------------------------------------------------------


def kept(world: World, name: str = "m") -> list[int]:
    return sorted(v.version for v in world.store.lineage.versions(name))


def versions(world: World, count: int, name: str = "m") -> None:
    for number in range(1, count + 1):
        folder = world.services.repository.path(name, number)
        folder.mkdir(parents=True)
        registered(world, name, version=number, path=folder)


def in_trash(world: World) -> list[tuple[str, int]]:
    return [(each.model, each.version) for each in world.services.repository.trash.entries()]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Free bytes of the disk, one number per question; the last one stays."""
    answers: list[int] = []

    def usage(_path: object) -> Any:
        return type("Usage", (), {"free": answers.pop(0) if len(answers) > 1 else answers[0]})

    monkeypatch.setattr(tidying.shutil, "disk_usage", usage)
    return answers


@pytest.mark.unfinished("models without files")
async def test_surplus_versions_go_to_the_trash_and_are_told_of(world: World) -> None:
    versions(world, 4)
    configured(world, "ingest", keep_versions=2, trash_retention_days=1.0)
    await tidy(world.services)
    assert kept(world) == [3, 4]
    assert sorted(in_trash(world)) == [("m", 1), ("m", 2)]
    told = {"version": 1, "by": "ingest.keep_versions", "purge": False}
    assert events(world, "version.removed") == [("m", told), ("m", told | {"version": 2})]
    removed = world.store.lineage.versions("m", removed=True)
    assert all(str(world.services.repository.trash.folder) in v.path for v in removed)
    world.clock.advance(86400.0 - 60.0)
    await tidy(world.services)
    assert len(in_trash(world)) == 2
    world.clock.advance(120.0)
    await tidy(world.services)
    assert in_trash(world) == []


@pytest.mark.unfinished("models without files")
async def test_nothing_is_deleted_for_space_where_none_is_asked_for(
    world: World, free: list[int]
) -> None:
    versions(world, 3)
    free.append(0)
    configured(world, "ingest", keep_versions=2, min_free_gib=None)
    await tidy(world.services)
    assert (kept(world), in_trash(world)) == ([2, 3], [("m", 1)])


@pytest.mark.unfinished("models without files")
@pytest.mark.parametrize(
    ("answers", "trash", "left"),
    [
        ([2 * GIB], [2, 1], [3, 4, 5]),
        ([2 * GIB - 1, 2 * GIB], [2], [3, 4, 5]),
        ([0, 0, 2 * GIB], [], [3, 4, 5]),
        ([0, 0, 0, 2 * GIB], [], [4, 5]),
        ([0], [], [5]),
    ],
)
async def test_space_is_made_from_the_oldest_trash_then_the_oldest_versions(
    world: World, free: list[int], answers: list[int], trash: list[int], left: list[int]
) -> None:
    free += answers
    versions(world, 5)
    for number in (1, 2):
        world.clock.advance(100.0)
        world.store.lineage.retire("m", [number], by="me")
    configured(world, "ingest", keep_versions=9, min_free_gib=2.0)
    await tidy(world.services)
    assert in_trash(world) == [("m", number) for number in trash]
    assert kept(world) == left
    told = [(name, detail) for name, detail in events(world, "version.removed")]
    gone = [number for number in (3, 4) if number not in left]
    assert told == [
        ("m", {"version": number, "by": "ingest.min_free_gib", "purge": True}) for number in gone
    ]
    for number in gone:
        assert not world.services.repository.path("m", number).exists()


@pytest.mark.unfinished("models without files")
async def test_only_what_lies_in_the_repository_is_moved(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    versions(world, 3)
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    registered(world, "m", version=4, path=outside)
    registered(world, "m", version=5)
    world.store.lineage.retire("m", [1, 2, 3, 4], by="me")
    put = world.services.repository.trash.put

    def failing(version: Version) -> Any:
        if version.version == 3:
            raise OSError(5, "Input/output error")
        return put(version)

    monkeypatch.setattr(world.services.repository.trash, "put", failing)
    await move_removed(world.services)
    assert outside.exists() and world.services.repository.path("m", 3).exists()
    assert sorted(in_trash(world)) == [("m", 1), ("m", 2)]
    monkeypatch.undo()
    await move_removed(world.services)
    assert sorted(in_trash(world)) == [("m", 1), ("m", 2), ("m", 3)]


@pytest.mark.unfinished("models without files")
async def test_a_version_that_is_in_use_meanwhile_stays(world: World) -> None:
    versions(world, 2)
    (newest, _oldest) = world.store.lineage.versions("m")
    await tidying._retire(world.services, newest, by="me", purge=False)
    assert kept(world) == [1, 2] and world.heard == []
