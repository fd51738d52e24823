"""What is recorded of a drop that becomes no model, and where it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelium.errors import DropRejected, InputError
from modelium.intake.fingerprint import fingerprint
from modelium.models import Drop, DropState, Report
from modelium.stages import drop_outcomes
from modelium.stages.drop_outcomes import (
    incomplete,
    note_incomplete,
    refuse,
    refuse_in_place,
    rejected,
)
from tests.modelium.conftest import World
from tests.modelium.stages.rows import configured, events

RULE = DropRejected("it holds a pickle", reason="pickle", approvable=True)


def dropped(folder: Path, name: str = "half") -> Path:
    source = folder / name
    source.mkdir(parents=True)
    (source / "weights.bin").write_bytes(b"x")
    return source


def unchanged_for(world: World, source: Path, seconds: float) -> float:
    """Set the clock so that ``source`` has not changed for so long; return since when."""
    found = fingerprint(source)
    assert found is not None
    world.clock.step(found.changed_at + seconds - world.clock.time())
    return found.changed_at


@pytest.mark.parametrize(
    ("limit_s", "span"), [(7199.0, "7199 s"), (7200.0, "2 h"), (9000.0, "2 h"), (86400.0, "24 h")]
)
def test_a_span_is_in_hours_from_two_on(limit_s: float, span: str) -> None:
    assert drop_outcomes._span(limit_s) == span


@pytest.mark.parametrize("late", [False, True])
async def test_an_incomplete_drop_waits_for_so_long(world: World, late: bool) -> None:
    configured(world, "ingest", incomplete_after_seconds=60.0)
    source = dropped(world.incoming)
    changed_at = unchanged_for(world, source, 60.0 if late else 59.0)
    report = await incomplete(world.services, source, "a shard", name="mine")
    assert source.exists() is not late
    if not late:
        assert report == Report(
            stage="ingest",
            outcome="incomplete",
            model="mine",
            reason="a shard; it is tried again when it changes",
            details={"path": str(source), "missing": "a shard"},
        )
        (pending,) = world.services.pending.all()
        assert pending == Drop(
            name="half",
            model="mine",
            state=DropState.INCOMPLETE,
            path=str(source),
            since=pending.since,
            rule="incomplete",
            reason="a shard",
        )
        assert pending.since == pytest.approx(changed_at, abs=0.01)
        assert events(world, "drop.incomplete") == [("mine", {"missing": "a shard"})]
        return
    why = (
        "half is incomplete: a shard (it did not change for 60 s; complete it, then move it into "
        "the drop zone again)"
    )
    assert report == Report(
        stage="ingest",
        outcome="rejected",
        model="mine",
        reason=why,
        details={"rule": "incomplete", "approvable": False},
    )
    assert events(world, "drop.rejected") == [("mine", {"reason": "incomplete", "message": why})]
    assert world.services.pending.all() == []


async def test_a_drop_is_called_as_its_folder_where_it_has_no_other_name(world: World) -> None:
    source = dropped(world.incoming)
    assert (await incomplete(world.services, source, "a shard", name=None)).model == "half"
    assert (await refuse(world.services, source, RULE, name=None)).model == "half"


async def test_what_does_not_exist_is_an_error_of_the_caller(world: World) -> None:
    with pytest.raises(InputError, match=r"gone does not exist; check the path and try again"):
        await incomplete(world.services, world.incoming / "gone", "a shard", name=None)


async def test_what_has_vanished_is_noted_as_of_now(world: World) -> None:
    await note_incomplete(world.services, world.incoming / "gone", "a shard", name="gone")
    (pending,) = world.services.pending.all()
    assert pending.since == pytest.approx(world.clock.time(), abs=0.01)


async def test_a_rejected_drop_says_how_to_accept_it(world: World) -> None:
    report = await rejected(world.services, "tiny", RULE)
    assert report == Report(
        stage="ingest",
        outcome="rejected",
        model="tiny",
        reason="it holds a pickle; `modelium approve tiny` accepts it",
        details={"rule": "pickle", "approvable": True},
    )
    told = {"reason": "pickle", "message": "it holds a pickle"}
    assert events(world, "drop.rejected") == [("tiny", told)]
    final = await rejected(world.services, "tiny", DropRejected("no model", reason="format"))
    assert final.reason == "no model"


@pytest.mark.parametrize("where", ["drop zone", "elsewhere"])
async def test_a_refused_drop_leaves_the_drop_zone_alone(world: World, where: str) -> None:
    folder = world.incoming if where == "drop zone" else world.incoming.parent / "elsewhere"
    source = dropped(folder)
    await note_incomplete(world.services, source, "a shard", name="half")
    report = await refuse(world.services, source, RULE, name="mine")
    assert (report.outcome, report.model) == ("rejected", "mine")
    assert source.exists() is (where == "elsewhere")
    assert world.services.pending.all() == []


async def test_a_drop_that_cannot_be_moved_is_refused_where_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = world.services.repository
    monkeypatch.setattr(repository, "reject_unstaged", lambda *_args: None)
    for name, folder in (("in", world.incoming), ("out", world.incoming.parent / "elsewhere")):
        source = dropped(folder, name)
        report = await refuse(world.services, source, RULE, name=None)
        assert report.model == name
    (pending,) = world.services.pending.all()
    assert (pending.name, pending.model, pending.rule) == ("in", "in", "pickle")


async def test_what_is_refused_in_place_is_noted_with_its_digest(world: World) -> None:
    source = dropped(world.incoming)
    report = await refuse_in_place(world.services, source, RULE, name="mine", digest="sha256:1")
    (pending,) = world.services.pending.all()
    assert pending == Drop(
        name="half",
        model="mine",
        state=DropState.REJECTED,
        path=str(source),
        since=pending.since,
        rule="pickle",
        reason="it holds a pickle",
        approvable=True,
        digest="sha256:1",
    )
    assert pending.since == pytest.approx(world.clock.time(), abs=0.01)
    where = str(source)
    told = {"reason": "pickle", "message": "it holds a pickle", "path": where}
    assert events(world, "drop.rejected") == [("mine", told)]
    assert report == Report(
        stage="ingest",
        outcome="rejected",
        model="mine",
        reason="it holds a pickle",
        details={"rule": "pickle", "approvable": True, "path": where},
    )
