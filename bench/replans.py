"""Measures full re-plans of a wide fleet beside a running event loop."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from agents.rules.planner import RulePlanner
from agents.rules.subprocess import PlannerSubprocess
from bench.wide_fleet import wide_fleet
from modelium.clock import SystemClock
from modelium.models import Fleet, RuntimeName, Trigger
from modelium.policy import Policy, RuntimeRules
from modelium.ports import Question

DEADLINE_S = 300.0
"""For a plan that is measured, however long it takes."""

PULSE_S = 0.001
"""How often the event loop is looked at."""


@dataclass(frozen=True, kw_only=True)
class Replan:
    """What a full re-plan took."""

    name: str
    models: int
    devices: int
    actions: int
    seconds: float
    """From the question to the plan, the way to the other process and back included."""
    own_cpu_s: float
    """Of the process with the event loop."""
    cpu_s: float
    """Of the planner's process."""
    stall_ms: float
    """The longest time for which the event loop stood still."""


class Stalls:
    """Looks at how long the event loop stands still; use as an async context manager."""

    def __init__(self) -> None:
        """Look at nothing yet."""
        self.longest_s = 0.0

    async def __aenter__(self) -> Stalls:
        """Begin."""
        self._looking = asyncio.create_task(self._look())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End; `longest_s` stays."""
        self._looking.cancel()
        await asyncio.wait({self._looking})

    async def _look(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(PULSE_S)
            self.longest_s = max(self.longest_s, time.perf_counter() - began - PULSE_S)


async def replan(name: str, fleet: Fleet, *, rounds: int) -> Replan:
    """Return the medians of ``rounds`` sweeps of ``fleet``, and the longest stall."""
    offload = PlannerSubprocess(clock=SystemClock(), deadline_s=DEADLINE_S)
    planner = RulePlanner(offload=offload)
    policy = Policy(runtimes={RuntimeName.VLLM: RuntimeRules()})
    question = Question(trigger=Trigger.SWEEP, now=fleet.at)
    took, own, there, stalls = [], [], [], Stalls()
    actions = 0
    try:
        # The process starts with the first question, which is a small one.
        await planner.decide(question, wide_fleet(nodes=4, models=200, loaded=1.0), policy)
        for _ in range(rounds):
            whole = Fleet.model_construct(**dict(fleet))
            process = offload._process
            assert process is not None
            cpu, mine, began = _cpu_s(process.pid), time.process_time(), time.perf_counter()
            async with stalls:
                plan = await planner.decide(question, whole, policy)
            took.append(time.perf_counter() - began)
            own.append(time.process_time() - mine)
            there.append(_cpu_s(process.pid) - cpu)
            actions = len(plan.actions)
    finally:
        await offload.aclose()
    return Replan(
        name=name,
        models=len(fleet.models),
        devices=len(fleet.devices),
        actions=actions,
        seconds=statistics.median(took),
        own_cpu_s=statistics.median(own),
        cpu_s=statistics.median(there),
        stall_ms=stalls.longest_s * 1000,
    )


async def replans(*, nodes: int, models: int, rounds: int = 3) -> list[Replan]:
    """Measure a full fleet, and one whose models all wait."""
    full = wide_fleet(nodes=nodes, models=models, loaded=1.0)
    empty = wide_fleet(nodes=nodes, models=models, loaded=0.0)
    return [
        await replan("full", full, rounds=rounds),
        await replan("empty", empty, rounds=rounds),
    ]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
