"""The planner subprocess and its failures."""

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

from agents.replay.planner_under_replay import unrestricted_policy
from agents.replay.simulated_fleet import SimulatedClock
from agents.rules.planner import RulePlanner
from agents.rules.subprocess import MODELS_PER_CHUNK, NICENESS, RETRY_AFTER_S, PlannerSubprocess
from bench.planner import MODELS, NOW, crowded
from modelium.models import Fleet, Plan, Trigger
from modelium.models.advice import RULES_ALONE
from modelium.ports import Question

pytestmark = pytest.mark.slow

READ = f"""
import pickle, sys
for _ in range({-(-MODELS // MODELS_PER_CHUNK)} + 1):
    pickle.load(sys.stdin.buffer)
said = pickle.dumps([])
"""
"""Reads a whole question."""

STOPS_READING = """
import os, pickle, signal, sys
from agents.rules import subprocess as planner

load = pickle.load
def loads(reader):
    message = load(reader)
    if os.path.exists({fifo!r}):
        with open({fifo!r}, "w") as fifo:  # waits for the test to open it
            os.unlink({fifo!r})
            fifo.write("reading")
        signal.pause()
    return message
pickle.load = loads
planner.main()
"""
"""The planner subprocess, which says so on a FIFO, where there is one, and then reads no further."""

MOST_NICE = 19
"""Linux knows no lower priority; the tests may run with it, too."""

NEVER_S = 120.0
"""A deadline that does not pass in these tests."""

Run = Callable[[Coroutine[Any, Any, None]], None]

SWEEP = Question(trigger=Trigger.SWEEP, now=NOW)
POLICY = unrestricted_policy()


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return crowded(random.Random(4))


@asynccontextmanager
async def subprocess(
    clock: SimulatedClock | None = None, **given: Any
) -> AsyncIterator[PlannerSubprocess]:
    process = PlannerSubprocess(clock=clock or SimulatedClock(), **{"deadline_s": NEVER_S, **given})
    try:
        yield process
    finally:
        await process.aclose()


def planners() -> set[int]:
    """Return the pids of the planner subprocesses that this process started and that run."""
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
def test_its_plans_are_the_planners_and_it_ends_with_its_owner(run: Run, fleet: Fleet) -> None:
    async def check() -> None:
        async with subprocess() as process:
            planner = RulePlanner(offload=process)
            for at in (NOW, NOW + 60):
                question = Question(trigger=Trigger.SWEEP, now=at)
                there = await planner.decide(question, fleet, POLICY)
                assert there == planner.plan(question, fleet, POLICY)
                assert there.actions
            (pid,) = planners()
            mine, its = (os.getpriority(os.PRIO_PROCESS, of) for of in (0, pid))
            assert its == min(mine + NICENESS, MOST_NICE)
        assert not planners()

    run(check())


async def test_concurrent_questions_each_get_their_own_answer(fleet: Fleet) -> None:
    async with subprocess() as process:
        planner = RulePlanner(offload=process)
        asked = [Question(trigger=Trigger.SWEEP, now=NOW + s) for s in range(0, 4000, 1000)]
        plans = await asyncio.gather(*(planner.decide(q, fleet, POLICY) for q in asked))
        assert plans == [planner.plan(q, fleet, POLICY) for q in asked]


async def test_a_small_fleet_or_a_single_model_needs_no_process(fleet: Fleet) -> None:
    async with subprocess(command=("/nowhere",)) as process:
        planner = RulePlanner(offload=process)
        small = fleet.model_copy(update={"models": fleet.models[:10]})
        assert await process(SWEEP, small, POLICY, RULES_ALONE) is None
        question = Question(trigger=Trigger.OPERATOR, model="m999", now=NOW)
        assert (await planner.decide(question, fleet, POLICY)).subject == "m999"


@pytest.mark.parametrize(
    ("program", "deadline_s"),
    [
        ("raise SystemExit(3)", NEVER_S),
        ("import sys, time; sys.stdin.buffer.read(10); time.sleep(600)", 0.2),
        (
            "import sys; sys.stdin.buffer.read(10); sys.stdout.write('no plan at all, but words')",
            NEVER_S,
        ),
        (READ + "sys.stdout.buffer.write(len(said).to_bytes(8, 'big') + said)", NEVER_S),
        (
            READ + "said = b'no pickle'; sys.stdout.buffer.write(bytes(7) + b'\\x09' + said)",
            NEVER_S,
        ),
    ],
    ids=["exits", "hangs", "prints", "answers with another type", "answers with garbage"],
)
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_failed_process_is_killed_and_the_plan_made_in_this_process(
    run: Run, program: str, deadline_s: float, fleet: Fleet
) -> None:
    async def check() -> None:
        command = (sys.executable, "-c", program, "agents.rules.subprocess")
        async with subprocess(command=command, deadline_s=deadline_s) as process:
            planner = RulePlanner(offload=process)
            assert await planner.decide(SWEEP, fleet, POLICY) == planner.plan(SWEEP, fleet, POLICY)
            assert not planners()

    run(check())


async def test_another_process_is_started_after_the_pause(fleet: Fleet) -> None:
    clock = SimulatedClock()
    async with subprocess(clock) as process:
        planner = RulePlanner(offload=process)

        async def plan() -> Plan | None:
            return await process(SWEEP, fleet, POLICY, RULES_ALONE)

        first = await plan()
        assert first is not None
        (pid,) = planners()
        os.kill(pid, signal.SIGKILL)
        assert await planner.decide(SWEEP, fleet, POLICY) == first
        clock.now += RETRY_AFTER_S - 1
        assert await plan() is None
        assert not planners()
        clock.now += 1
        assert await plan() == first
        assert planners() and pid not in planners()


async def test_a_cancelled_question_leaves_no_answer_for_the_next(
    fleet: Fleet, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    program = STOPS_READING.format(fifo=str(fifo))
    command = (sys.executable, "-P", "-c", program, "agents.rules.subprocess")
    async with subprocess(command=command) as process:
        planner = RulePlanner(offload=process)
        expected = planner.plan(SWEEP, fleet, POLICY)
        assert await process(SWEEP, fleet, POLICY, RULES_ALONE) == expected
        os.mkfifo(fifo)
        cancelled = asyncio.create_task(process(SWEEP, fleet, POLICY, RULES_ALONE))
        assert await asyncio.to_thread(fifo.read_text) == "reading"
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        later = Question(trigger=Trigger.SWEEP, now=NOW + 5000)
        assert await process(later, fleet, POLICY, RULES_ALONE) == planner.plan(
            later, fleet, POLICY
        )


async def test_questions_that_wait_past_the_deadline_are_planned_in_this_process(
    fleet: Fleet,
) -> None:
    hangs = (sys.executable, "-c", "import time; time.sleep(600)", "agents.rules.subprocess")
    async with subprocess(command=hangs, deadline_s=0.2) as process:
        planner = RulePlanner(offload=process)
        plans = await asyncio.gather(*(planner.decide(SWEEP, fleet, POLICY) for _ in range(3)))
        assert plans == [planner.plan(SWEEP, fleet, POLICY)] * 3
        assert not planners()
