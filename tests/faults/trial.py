"""Runs a scenario once: through to its goal, or with a fault at one point."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from unittest import mock

from modelium.control.operations import Operations
from modelium.errors import ModeliumError, UnknownModel
from modelium.intake import file_events
from tests.fakes.virtual_time import VirtualTimeLoop
from tests.faults.edges import watched_files
from tests.faults.house import House, Inline, Machine
from tests.faults.points import LASTS_S, Crash, Fault, Point
from tests.faults.scenarios import Scenario, drop
from tests.invariants import violations

LOOK_S = 2.0
"""Between two looks at whether it is."""

ASK_S = 10.0
"""Between two requests of a client that was refused."""


class NoEvents:
    """No file events: the watcher's rescans find what is dropped."""

    def schedule(self, *_args: Any, **_kwargs: Any) -> None:
        raise OSError("inotify is not there")


def rehearse(scenario: Scenario, folder: Path) -> tuple[tuple[Point, ...], str]:
    """Return the points that ``scenario`` comes by without a fault, and what is wrong even so."""
    machine = Machine(folder, gib=scenario.gib)
    problem = _run(machine, scenario)
    return tuple(machine.points.seen), problem


def trial(scenario: Scenario, folder: Path, *, fault: Fault, number: int) -> str:
    """Have ``fault`` happen at one point; return what is wrong in the end, empty: nothing."""
    machine = Machine(folder, gib=scenario.gib)
    machine.points.plan(fault, number)
    problem = _run(machine, scenario)
    return problem if machine.points.fired else f"the point was not reached; {problem}"


def _run(machine: Machine, scenario: Scenario) -> str:
    with (
        watched_files(machine.folder, machine.points, apart=scenario.apart),
        mock.patch.object(file_events, "Observer", NoEvents),
    ):
        try:
            return _live(machine, lambda: _act(machine, scenario))
        except Crash:
            machine.points.dead = machine.points.armed = False
            return _live(machine, lambda: _restarted(machine, scenario))


def _live(machine: Machine, life: Callable[[], Coroutine[Any, Any, str]]) -> str:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        loop.set_default_executor(Inline())
        loop.set_exception_handler(lambda _loop, _context: None)
        machine.clock.enter(loop)
        return runner.run(life())


async def _act(machine: Machine, scenario: Scenario) -> str:
    crashed = asyncio.Event()
    machine.points.on_crash = crashed.set
    house = House(machine)
    try:
        async with house.lived_in() as operations:
            for number, name in enumerate(scenario.prepare):
                drop(machine, name, weight=1.0 + 10 * number)
                await _well(machine, lambda name=name: machine.state(name) == "ready")
            if scenario.before is not None:
                await scenario.before(machine, operations)
                await asyncio.sleep(20.0)
            await _well(machine, lambda: True)
            machine.points.armed = True
            acting = asyncio.create_task(_acting(machine, scenario, house, operations))
            dying = asyncio.create_task(crashed.wait())
            await asyncio.wait({acting, dying}, return_when=asyncio.FIRST_COMPLETED)
            if machine.points.dead:
                raise Crash
            dying.cancel()
            problem = await acting
        await operations.aclose()
        await house.launcher.aclose()
        return problem
    finally:
        house.close()


async def _acting(
    machine: Machine, scenario: Scenario, house: House, operations: Operations
) -> str:
    try:
        await scenario.act(machine, operations)
    except Exception as exc:  # the operator's command fails; the service has to go on
        logging.getLogger(__name__).info("the operator is told: %r", exc)
    return await _served(machine, scenario, house)


async def _restarted(machine: Machine, scenario: Scenario) -> str:
    house = House(machine)
    try:
        async with house.lived_in() as operations:
            problem = await _served(machine, scenario, house)
        await operations.aclose()
        await house.launcher.aclose()
        return problem
    finally:
        house.close()


async def _served(machine: Machine, scenario: Scenario, house: House) -> str:
    cancelled = machine.points.fault is Fault.CANCELLED
    clients = [
        asyncio.create_task(_client(house, name, patient=not cancelled)) for name in scenario.wanted
    ]
    problem = await _well(
        machine,
        # What somebody has cancelled need not come about, but what is there has to be usable.
        lambda: (
            (machine.points.fired or machine.points.fault in (None, Fault.CRASH))
            and (cancelled or scenario.goal(machine))
            and all(client.done() for client in clients)
        ),
        limit_s=scenario.limit_s,
        fail=False,
    )
    for client in clients:
        client.cancel()
    return problem


async def _client(house: House, model: str, *, patient: bool) -> None:
    """Ask for ``model`` until it answers; ``patient``: also while nobody knows it."""
    await asyncio.sleep(LASTS_S)
    while True:
        try:
            async with house.services.switchboard.admit(model):
                return
        except ModeliumError as exc:
            if isinstance(exc, UnknownModel) and not patient:
                return
            await asyncio.sleep(ASK_S)


async def _well(
    machine: Machine, goal: Callable[[], bool], *, limit_s: float = 150.0, fail: bool = True
) -> str:
    """Wait until ``goal`` is reached and no invariant violated; return what is wrong in the end."""
    deadline = machine.clock.monotonic() + limit_s
    while True:
        await asyncio.sleep(LOOK_S)
        armed, machine.points.armed = machine.points.armed, False
        reached = goal()
        found = violations(machine.scene(), at_rest=True) if reached else []
        machine.points.armed = armed
        if reached and not found:
            return ""
        if machine.clock.monotonic() > deadline:
            found = found or violations(machine.scene(), at_rest=True)
            rows = [(r["name"], r["version"], r["state"]) for r in machine.tables().models]
            said = "; ".join([*found, "" if reached else "the goal is not reached", str(rows)])
            assert not fail, said
            return said
