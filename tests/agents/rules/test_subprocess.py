"""The planner in a process of its own, and what becomes of its failures."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from agents.rules.planner import RulePlanner
from agents.rules.subprocess import PIECE, PlannerProcess
from bench.planner import MODELS, NOW, crowded, replay_policy
from modelium.models import Fleet, Plan, Trigger
from modelium.models.advice import RULES_ALONE
from modelium.ports import Question

READ = f"""
import pickle, sys
for _ in range({-(-MODELS // PIECE)} + 1):
    pickle.load(sys.stdin.buffer)
said = pickle.dumps([])
"""
"""Hears a question to its end."""

Run = Callable[[Coroutine[Any, Any, None]], None]

SWEEP = Question(trigger=Trigger.SWEEP, now=NOW)
POLICY = replay_policy()


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return crowded(random.Random(4))


@asynccontextmanager
async def apart(**given: object) -> AsyncIterator[PlannerProcess]:
    process = PlannerProcess(**given)  # type: ignore[arg-type]
    try:
        yield process
    finally:
        await process.aclose()


def planners() -> set[int]:
    """Pids of the planners that this process has started and that live."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if parent == os.getpid() and b"agents.rules.subprocess" in words:
            found.add(int(entry.name))
    return found


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_it_plans_as_the_planner_here_does_and_ends_with_its_owner(run: Run, fleet: Fleet) -> None:
    async def check() -> None:
        async with apart() as process:
            planner = RulePlanner(elsewhere=process)
            for at in (NOW, NOW + 60):
                question = Question(trigger=Trigger.SWEEP, now=at)
                there = await planner.decide(question, fleet, POLICY)
                assert there == planner.plan(question, fleet, POLICY)
                assert there.actions
            (pid,) = planners()
            mine, its = (os.getpriority(os.PRIO_PROCESS, of) for of in (0, pid))
            assert its > mine
        assert not planners()

    run(check())


async def test_questions_at_once_each_get_their_own_answer(fleet: Fleet) -> None:
    async with apart() as process:
        planner = RulePlanner(elsewhere=process)
        asked = [Question(trigger=Trigger.SWEEP, now=NOW + s) for s in range(0, 4000, 1000)]
        plans = await asyncio.gather(*(planner.decide(q, fleet, POLICY) for q in asked))
        assert plans == [planner.plan(q, fleet, POLICY) for q in asked]


async def test_a_small_fleet_or_one_model_needs_no_process(fleet: Fleet) -> None:
    async with apart(command=("/nowhere",)) as process:
        planner = RulePlanner(elsewhere=process)
        small = fleet.model_copy(update={"models": fleet.models[:10]})
        assert await process(SWEEP, small, POLICY, RULES_ALONE) is None
        question = Question(trigger=Trigger.OPERATOR, model="m999", now=NOW)
        assert (await planner.decide(question, fleet, POLICY)).subject == "m999"


@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(3)",
        "import sys, time; sys.stdin.buffer.read(10); time.sleep(600)",
        "import sys; sys.stdin.buffer.read(10); sys.stdout.write('no plan at all, but words')",
        READ + "sys.stdout.buffer.write(len(said).to_bytes(8, 'big') + said)",
        READ + "said = b'no pickle'; sys.stdout.buffer.write(bytes(7) + b'\\x09' + said)",
    ],
    ids=["dies", "hangs", "prints", "answers otherwise", "answers nonsense"],
)
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_process_that_fails_is_ended_and_the_plan_made_here(
    run: Run, program: str, fleet: Fleet
) -> None:
    async def check() -> None:
        command = (sys.executable, "-c", program, "agents.rules.subprocess")
        async with apart(command=command, deadline_s=2.0) as process:
            planner = RulePlanner(elsewhere=process)
            assert await planner.decide(SWEEP, fleet, POLICY) == planner.plan(SWEEP, fleet, POLICY)
            assert not planners()

    run(check())


async def test_after_a_rest_another_process_is_started(fleet: Fleet) -> None:
    async with apart(rest_s=0.2) as process:
        planner = RulePlanner(elsewhere=process)

        async def plan() -> Plan | None:
            return await process(SWEEP, fleet, POLICY, RULES_ALONE)

        first = await plan()
        (pid,) = planners()
        os.kill(pid, signal.SIGKILL)
        assert await planner.decide(SWEEP, fleet, POLICY) == first
        assert await plan() is None
        assert not planners()
        await asyncio.sleep(0.2)
        assert await plan() == first
        assert planners() and pid not in planners()


async def test_who_gives_up_leaves_no_answer_for_the_next(fleet: Fleet) -> None:
    async with apart() as process:
        planner = RulePlanner(elsewhere=process)
        await planner.decide(SWEEP, fleet, POLICY)
        asked = asyncio.create_task(planner.decide(SWEEP, fleet, POLICY))
        await asyncio.sleep(0.02)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        later = Question(trigger=Trigger.SWEEP, now=NOW + 5000)
        assert await planner.decide(later, fleet, POLICY) == planner.plan(later, fleet, POLICY)


async def test_who_waits_too_long_for_its_turn_plans_here(fleet: Fleet) -> None:
    stuck = (sys.executable, "-c", "import time; time.sleep(600)", "agents.rules.subprocess")
    async with apart(command=stuck, deadline_s=1.0) as process:
        planner = RulePlanner(elsewhere=process)
        plans = await asyncio.gather(*(planner.decide(SWEEP, fleet, POLICY) for _ in range(3)))
        assert plans == [planner.plan(SWEEP, fleet, POLICY)] * 3
        assert not planners()
