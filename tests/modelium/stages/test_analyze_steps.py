"""What an analysis stores, whom it replaces, and what a refusal leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelium import analysis
from modelium.errors import DropRejected, Unavailable
from modelium.models import ModelProfile, Report, RuntimeName, RuntimeSupport
from modelium.stages import analyze as analyzing
from modelium.stages.analyze import analyze
from modelium.stages.newcomers import resume
from modelium.stages.owners import GRACE_S
from tests.fakes import fleets
from tests.modelium.conftest import World
from tests.modelium.stages.rows import (
    background,
    booked,
    draining,
    events,
    ready,
    registered,
    scripted,
    states,
    with_files,
)

pytestmark = pytest.mark.unfinished("models without files")

PICKLE = DropRejected("it holds a pickle", reason="pickle")


class Files:
    """What the files of models are found to be, and which were looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inspected: list[tuple[str, frozenset[str]]] = []
        self.analyzed: list[tuple[str, frozenset[str]]] = []
        self.failure: DropRejected | None = None
        self.found = fleets.profile(
            1.0,
            parameter_count=7,
            runtimes=(
                RuntimeSupport(runtime=RuntimeName.VLLM, supported=True),
                RuntimeSupport(runtime=RuntimeName.TRITON, supported=False, reason="no backend"),
            ),
        )
        monkeypatch.setattr(analysis, "inspect_files", self._inspect)
        monkeypatch.setattr(analysis, "analyze", self._analyze)

    def _inspect(self, folder: Path, *, approvals: frozenset[str]) -> None:
        self.inspected.append((folder.name, approvals))
        if self.failure:
            raise self.failure

    def _analyze(self, folder: Path, *, approvals: frozenset[str], engines: Any) -> ModelProfile:
        self.analyzed.append((folder.name, approvals))
        if self.failure:
            raise self.failure
        return self.found


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    return Files(monkeypatch)


async def test_an_analysis_tells_what_it_found_and_has_it_decided_on(
    world: World, files: Files
) -> None:
    registered(world)
    world.store.rules.approve("tiny", digest="sha256:tiny1", what=["pickle"])
    world.store.states.mark_analyzed("tiny")
    script = scripted(world)
    report = await analyze(world.services, model="tiny")
    await background(world)
    assert report == Report(
        stage="analyze",
        outcome="analyzed",
        model="tiny",
        reason="LlamaForCausalLM (transformers, text-generation)",
        details={
            "weights_bytes": 1024**3,
            "parameters": 7,
            "runtimes": ["vllm"],
            "not_supported": {"triton": "no backend"},
        },
    )
    assert files.analyzed == [("tiny@1", frozenset({"pickle"}))] and files.inspected == []
    record = world.store.model("tiny")
    assert record.profile == files.found.model_copy(update={"digest": "sha256:tiny1"})
    assert script.asked == [("decide", {"model": "tiny", "trigger": "ingest"})]


@pytest.mark.parametrize("state", ["new", "outdated", "changed", "without profile", "analyzed"])
async def test_what_ingest_has_just_examined_is_inspected_alone(
    world: World, files: Files, state: str
) -> None:
    other = fleets.profile(0.0, digest="sha256:other")
    registered(world, **({"profile": other} if state == "changed" else {}))
    if state == "outdated":
        ready(world)
        registered(world, version=2)
    elif state == "without profile":
        registered(world, version=2, profile=None)
    elif state == "analyzed":
        world.store.states.mark_analyzed("tiny")
    before = world.store.model("tiny").profile
    found = await analyzing._profile(world.services, "tiny")
    assert len(files.inspected) == (state in ("new", "outdated"))
    assert len(files.analyzed) == (state not in ("new", "outdated"))
    if files.inspected:
        assert found == before


@pytest.mark.parametrize("state", ["new", "loading", "ready", "switching"])
async def test_a_refusal_is_told_where_it_leads(world: World, files: Files, state: str) -> None:
    registered(world)
    if state == "loading":
        booked(world)
    elif state != "new":
        ready(world)
    if state == "switching":
        registered(world, version=2)
    files.failure = PICKLE
    with pytest.raises(DropRejected, match="it holds a pickle"):
        await analyze(world.services, model="tiny")
    told = [("tiny", {"reason": "it holds a pickle", "rule": "pickle"})]
    assert events(world, "model.failed") == (told if state == "new" else [])
    assert events(world, "model.unservable") == (told if state in ("loading", "ready") else [])
    expected = {"new": "failed", "switching": "ready"}.get(state, state)
    assert states(world) == {"tiny": expected}
    assert world.store.model("tiny").version == 1
    if state == "new":
        assert world.store.model("tiny").reason == "it holds a pickle"


# --- replacing ------------------------------------------------------------------------------------


async def test_where_both_fit_nothing_is_unloaded(world: World, files: Files) -> None:
    registered(world)
    ready(world)
    registered(world, version=2)
    script = scripted(world, decide=Report(stage="decide", outcome="load"))
    assert await analyzing._replace(world.services, "tiny") is True
    assert script.stages() == [("decide", "tiny@2")]
    script.asked.clear()
    await analyze(world.services, model="tiny")
    await background(world)
    assert script.asked == [] and states(world)["tiny@2"] == "analyzed", "its end begins this one"


async def test_where_they_do_not_fit_the_loaded_one_is_unloaded_and_queued(world: World) -> None:
    registered(world)
    ready(world)
    registered(world, version=2)
    script = scripted(world, decide=Report(stage="decide", outcome="queued", reason="no room"))
    with pytest.raises(Unavailable, match="tiny: requests are still in flight on the older"):
        await analyzing._replace(world.services, "tiny")
    (_twin, (stage, given)) = script.asked
    why = "version 2 replaces the one that is loaded; both at once: no room"
    assert (stage, given["model"], given["trigger"]) == ("decide", "tiny", "operator")
    plan = given["plan"]
    assert (plan.reason, plan.author) == (why, "operator")
    (action,) = plan.unloads
    assert (action.model, action.cause, action.requeue) == ("tiny", "replaced", True)


@pytest.mark.parametrize("state", ["current", "new", "draining"])
async def test_what_does_not_serve_an_older_version_is_not_replaced(
    world: World, state: str
) -> None:
    registered(world)
    if state != "new":
        ready(world)
    if state == "draining":
        registered(world, version=2)
        draining(world)
    script = scripted(world)
    assert await analyzing._replace(world.services, "tiny") is False
    assert script.asked == []


# --- newcomers ------------------------------------------------------------------------------------


async def test_each_newcomer_is_taken_from_where_it_stands(world: World) -> None:
    for name in ("fresh", "known", "later", "due", "removed", "ready"):
        registered(world, name)
    for name in ("known", "later", "due"):
        world.store.states.mark_analyzed(name)
    world.store.lineage.begin_removal("removed", by="me", purge=False)
    ready(world, "ready")
    registered(world, "ready", version=2)
    world.store.twins.stand_by("ready")
    models = [
        m.model_copy(update={"retry_at": world.clock.time() + (50.0 if m.name == "later" else 0)})
        if m.name in ("later", "due")
        else m
        for m in world.store.view()[1]
    ]
    script = scripted(world)
    resume(world.services, models, grace_s=0.0)
    await background(world)
    assert sorted(script.stages()) == [
        ("analyze", "fresh"),
        ("decide", "due"),
        ("decide", "known"),
    ]
    script.asked.clear()
    world.clock.advance(60.0)
    world.rule(enabled=False)
    resume(world.services, models)
    await background(world)
    assert script.stages() == [("analyze", "fresh")], "nothing is decided while that is off"


async def test_a_newcomer_that_a_task_is_at_is_left_to_it(world: World) -> None:
    registered(world)
    script = scripted(world)
    with world.services.examiners.of("tiny"):
        for _ in range(2):
            world.clock.advance(GRACE_S + 1.0)
            resume(world.services, world.store.view()[1])
    await background(world)
    assert script.asked == []
    assert with_files(world, "other").state == "ingested"
