"""A drop is registered, or kept in ``rejected/`` with its reason."""

from __future__ import annotations

import json
import os
import tarfile
import time
from pathlib import Path

import pytest

from modelium.config import Config
from modelium.models import Priority, Report
from modelium.stages.standing import standing
from tests.fakes.clock import START
from tests.modelium.conftest import World
from tests.samples import risky_onnx, tiny_onnx


async def drop_with(world: World, name: str, *extra: str) -> Report:
    """Drop an ONNX model with further files beside it."""
    folder = world.incoming / name
    risky_onnx(folder, *extra)
    return await world.launcher.ingest(path=str(folder))


async def test_the_same_content_again_changes_nothing(world: World) -> None:
    await world.load()
    report = await world.drop()
    assert report.outcome == "unchanged"
    assert world.store.model("tiny").version == 1


async def test_other_content_under_the_same_name_is_a_new_version(world: World) -> None:
    await world.load()
    report = await world.drop(weight=2.0)
    assert report.outcome == "registered"
    assert world.store.model("tiny").version == 2
    assert world.store.model("tiny").path.endswith("repository/tiny@2")
    assert (world.incoming.parent / "repository" / "tiny" / "model.onnx").exists()


async def test_an_unknown_format_is_rejected_with_its_reason(world: World) -> None:
    odd = world.incoming / "odd"
    odd.mkdir(parents=True)
    (odd / "notes.txt").write_text("not a model")
    report = await world.launcher.ingest(path=str(odd))
    assert report.outcome == "rejected"
    kept = world.incoming.parent / "rejected" / "odd"
    assert (kept / "odd" / "notes.txt").read_text() == "not a model"
    reason = json.loads((kept / "reason.json").read_text())
    assert reason["model"] == "odd" and reason["message"]
    assert "odd" not in world.store.names()
    assert world.kinds() == [("drop.rejected", "odd")]


async def test_a_folder_outside_the_drop_zone_is_copied(world: World) -> None:
    source = world.incoming.parent / "elsewhere" / "tiny"
    tiny_onnx(source)
    await world.launcher.ingest(path=str(source), team="research")
    await world.settled("tiny", "ready")
    assert (source / "model.onnx").exists()
    assert world.store.model("tiny").team == "research"


async def test_a_pickle_is_rejected_and_can_be_approved(world: World) -> None:
    report = await drop_with(world, "tiny", "weights.pkl")
    assert report.outcome == "rejected"
    assert report.details == {"rule": "pickle", "approvable": True}
    reason = json.loads((world.rejected / "tiny" / "reason.json").read_text())
    assert world.store.rules.approvals(reason["digest"]) == frozenset()


async def test_an_approval_of_one_kind_admits_no_other(world: World) -> None:
    world.rule(allow_pickle=True)
    report = await drop_with(world, "tiny", "weights.pkl", "modeling_tiny.py")
    assert report.details == {"rule": "remote-code", "approvable": True}


async def test_what_the_policy_allows_is_stored_as_approved(world: World) -> None:
    world.rule(allow_pickle=True)
    report = await drop_with(world, "tiny", "weights.pkl")
    assert report.outcome == "registered"
    assert world.store.model("tiny").approvals == {"pickle"}


async def test_a_drop_without_pickles_or_code_is_registered_without_approvals(
    world: World,
) -> None:
    await world.drop()
    assert world.store.model("tiny").approvals == frozenset()


def half(folder: Path) -> Path:
    """Write a model whose only shard is missing."""
    tiny_onnx(folder)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


MISSING = "model-00001-of-00002.safetensors of model.safetensors.index.json is missing"


async def test_an_incomplete_folder_from_elsewhere_is_rejected(world: World) -> None:
    folder = half(world.incoming.parent / "elsewhere" / "half")
    report = await world.launcher.ingest(path=str(folder))
    assert (report.outcome, report.details["rule"]) == ("rejected", "incomplete")
    assert "half" not in world.store.names()


@pytest.mark.parametrize("missing", [None, MISSING])
async def test_an_incomplete_drop_stays_and_is_reported(world: World, missing: str | None) -> None:
    folder = half(world.incoming / "half")
    report = await world.launcher.ingest(path=str(folder), missing=missing)
    assert (report.outcome, report.model) == ("incomplete", "half")
    assert report.details["missing"] == MISSING
    assert (folder / "model.onnx").exists()
    (pending,) = world.services.pending.all()
    assert (pending.name, pending.state, pending.reason) == ("half", "incomplete", MISSING)
    (event,) = world.heard
    assert (event.kind, event.model, event.detail) == (
        "drop.incomplete",
        "half",
        {"missing": MISSING},
    )


async def test_the_report_is_withdrawn_when_the_drop_is_completed(world: World) -> None:
    folder = half(world.incoming / "half")
    await world.launcher.ingest(path=str(folder))
    (folder / "model.safetensors.index.json").unlink()
    assert (await world.launcher.ingest(path=str(folder))).outcome == "registered"
    assert world.services.pending.all() == []


async def test_a_drop_that_stays_incomplete_is_rejected_in_the_end(world: World) -> None:
    folder = half(world.incoming / "half")
    world.clock.advance(time.time() - START)  # files have the times of the real clock
    report = await world.launcher.ingest(path=str(folder))
    assert report.outcome == "incomplete"
    world.clock.advance(world.services.config.ingest.incomplete_after_seconds)
    report = await world.launcher.ingest(path=str(folder), missing=MISSING)
    assert (report.outcome, report.details["rule"]) == ("rejected", "incomplete")
    assert not folder.exists()
    kept, reason = world.services.repository.find_rejected("half")
    assert (kept / "half" / "model.onnx").exists()
    assert MISSING in str(reason["message"]) and "24 h" in str(reason["message"])
    assert world.services.pending.all() == []


async def test_a_truncated_archive_stays_and_leaves_nothing_in_staging(world: World) -> None:
    tiny_onnx(world.incoming.parent / "elsewhere" / "tiny", weight=1.0)
    archive = world.incoming / "tiny.tgz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(world.incoming.parent / "elsewhere" / "tiny", arcname="tiny")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    report = await world.launcher.ingest(path=str(archive))
    assert (report.outcome, report.model) == ("incomplete", "tiny")
    assert list(world.services.repository.staging.iterdir()) == []
    archive.write_bytes(whole)
    assert (await world.launcher.ingest(path=str(archive))).outcome == "registered"
    assert world.services.pending.all() == []


async def test_a_name_that_no_model_can_have_is_rejected(world: World) -> None:
    tiny_onnx(world.incoming / "two words")
    report = await world.launcher.ingest(path=str(world.incoming / "two words"))
    assert (report.outcome, report.details["rule"]) == ("rejected", "name")


def entry(**fields: object) -> Config:
    return Config.model_validate(
        {
            "models": {"known": fields},
            "orchestration": {"policies": {"high_priority_teams": ["prod"]}},
        }
    )


def test_the_configured_team_wins_over_the_drops() -> None:
    own = standing(entry(team="prod"), "known", {"team": "research", "priority_ceiling": None})
    assert (own.team, own.priority) == ("prod", Priority.MEDIUM)


def test_the_drops_team_counts_where_none_is_configured() -> None:
    own = standing(entry(), "known", {"team": "prod", "priority_ceiling": None})
    assert (own.team, own.priority) == ("prod", Priority.MEDIUM)
    assert (
        standing(entry(), "other", {"team": None, "priority_ceiling": None}).priority
        is Priority.LOW
    )


def test_the_priority_never_exceeds_the_ceiling() -> None:
    own = standing(entry(), "other", {"team": "prod", "priority_ceiling": "low"})
    assert (own.priority, own.ceiling) == (Priority.LOW, Priority.LOW)


def test_the_configured_ceiling_wins_over_the_drops() -> None:
    own = standing(
        entry(priority_ceiling="medium"), "known", {"team": None, "priority_ceiling": "high"}
    )
    assert own.ceiling is Priority.MEDIUM


async def test_a_drop_that_a_disk_keeps_from_being_published_returns_to_the_drop_zone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = world.incoming / "tiny"
    tiny_onnx(folder)
    real = os.rename

    def broken(source: Path, target: Path) -> None:
        if Path(target).parent.name == "repository":
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", broken)
    with pytest.raises(OSError, match="Input/output"):
        await world.launcher.ingest(path=str(folder))
    monkeypatch.undo()
    assert (folder / "model.onnx").is_file()
    assert not list(world.services.repository.staging.iterdir())
    assert (await world.launcher.ingest(path=str(folder))).outcome == "registered"
