"""Stages by typed methods, awaited or in the background."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from modelium.errors import InputError
from modelium.models import Plan, Report, Trigger
from modelium.ports import Stage
from modelium.stages.inline import InlineRunner
from modelium.stages.launcher import StageLauncher, name_of
from modelium.stages.services import Services


def launcher_of(load: Any) -> StageLauncher:
    runner = InlineRunner(stages={"load": load}, services=lambda: cast(Services, "services"))
    return StageLauncher(runner=runner)


async def test_start_returns_at_once_and_logs_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    begun = asyncio.Event()

    async def load(services: Any, *, model: str, decision: str | None, steps: Any) -> Report:
        begun.set()
        raise InputError("no such thing")

    launcher = launcher_of(load)
    launcher.start(launcher.load(model="a"))
    assert not begun.is_set()
    await begun.wait()
    await asyncio.sleep(0)
    assert "load a failed: no such thing" in caplog.text
    await launcher.aclose()


async def test_aclose_ends_what_was_started() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def load(services: Any, *, model: str, decision: str | None, steps: Any) -> Report:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    launcher = launcher_of(load)
    launcher.start(launcher.load(model="a"))
    await begun.wait()
    await launcher.aclose()
    assert ended.is_set()


@pytest.mark.parametrize(
    ("stage", "parameters", "name"),
    [
        ("load", {"model": "gpt2", "decision": None}, "load gpt2"),
        ("ingest", {"path": "/incoming/gpt2/", "name": None}, "ingest gpt2"),
        ("ingest", {"path": "/incoming/gpt2", "name": "mine"}, "ingest mine"),
        ("evict", {"models": ["a", "b"]}, "evict a, b"),
        ("decide", {"model": None, "trigger": "sweep"}, "decide sweep"),
        ("ingest", {"path": "/", "name": None}, "ingest sweep"),
        ("evict", {"models": [], "model": "a", "name": "b"}, "evict a"),
        ("evict", {"models": None}, "evict sweep"),
    ],
)
def test_a_run_is_named_after_its_subject(
    stage: Stage, parameters: dict[str, Any], name: str
) -> None:
    assert name_of(stage, parameters) == name


async def test_each_method_runs_its_stage_with_what_it_was_given() -> None:
    ran: list[tuple[Stage, dict[str, Any]]] = []

    class Recording:
        """Runs nothing."""

        async def run(self, stage: Stage, **parameters: Any) -> Report:
            ran.append((stage, parameters))
            return Report(stage=stage, outcome="nothing")

    launcher = StageLauncher(runner=Recording())
    await launcher.ingest(path="/a", name="a", team="t", priority_ceiling="low", intent="i")
    await launcher.analyze(model="a")
    await launcher.decide(model="a", trigger=Trigger.DEMAND)
    await launcher.load(model="a", decision="d")
    await launcher.monitor()
    await launcher.evict(models=("a",), reason="asked")
    given = {"path": "/a", "name": "a", "team": "t", "priority_ceiling": "low", "intent": "i"}
    assert ran == [
        ("ingest", given),
        ("analyze", {"model": "a"}),
        ("decide", {"model": "a", "trigger": "demand"}),
        ("load", {"model": "a", "decision": "d"}),
        ("monitor", {}),
        ("evict", {"models": ["a"], "decision": None, "reason": "asked"}),
    ]


async def test_what_lives_in_memory_alone_is_marked_as_handed_over() -> None:
    launcher = launcher_of(None)
    plan = Plan(author="rules", trigger=Trigger.SWEEP)

    def given(**options: Any) -> dict[str, Any]:
        found = dict(launcher.decide(model="a", trigger=Trigger.SWEEP, **options).parameters)
        assert (found.pop("model"), found.pop("trigger")) == ("a", "sweep")
        return found

    assert given() == {}
    assert given(plan=plan) == {"handed": True, "plan": plan}
    assert given(carry_out=False) == {"handed": True, "carry_out": False}
    assert given(plan=plan, carry_out=False) == {"handed": True, "plan": plan, "carry_out": False}
    assert launcher.ingest(path="/a", missing="a shard").parameters["missing"] == "a shard"
    assert "missing" not in launcher.ingest(path="/a", missing="").parameters
    assert launcher.evict(decision="d").parameters == {
        "models": None,
        "decision": "d",
        "reason": "",
    }


@pytest.mark.parametrize(
    ("failure", "traced"), [(InputError("no such thing"), False), (KeyError("app"), True)]
)
async def test_a_bug_alone_is_logged_with_its_trace(
    failure: Exception, traced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def load(services: Any, *, model: str, decision: str | None, steps: Any) -> Report:
        raise failure

    launcher = launcher_of(load)
    launcher.start(launcher.load(model="a"))
    await launcher._background.wait(timeout_s=60)
    (record,) = caplog.records
    assert bool(record.exc_info) is traced
    assert record.getMessage().startswith("load a failed")
