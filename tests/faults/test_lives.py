"""Whatever an operator, clients and bad luck do in whatever order: the invariants hold."""

from __future__ import annotations

import asyncio
import itertools
import logging
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from modelium.control.operations import Operations
from modelium.errors import FailureKind, LoadFailed, ModeliumError, Unavailable
from modelium.intake import file_events
from tests.fakes.virtual_time import VirtualTimeLoop
from tests.faults.house import House, Inline, Machine
from tests.faults.scenarios import drop
from tests.faults.survey import LIVES, kind_of, known
from tests.faults.trial import NoEvents
from tests.invariants import violations
from tests.invariants.journal import Journal

pytestmark = pytest.mark.slow

T = TypeVar("T")

NAMES = st.sampled_from(("ape", "bee", "cat"))
PAUSES = st.sampled_from((0.0, 0.4, 3.0, 20.0))
"""Seconds until the next thing happens: in the middle of a stage, or after it."""

DAY_S = 86400.0
REST_S = 900.0
"""Of virtual time, after which nothing is going on any more."""


class Lives(RuleBasedStateMachine):
    """A machine whose device has room for two of the three models that are dropped on it."""

    listed = frozenset(known().get(LIVES, {}))
    """Kinds of what is known to go wrong."""
    seen: ClassVar[set[str]] = set()
    """Those of them that did."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = AsyncExitStack()
        self._folder = tempfile.TemporaryDirectory(prefix="modelium-lives-")
        self.machine = Machine(Path(self._folder.name), gib=0.7)
        self.journal = Journal(within_s=120.0)
        self._numbers = itertools.count(1)
        self._clients: set[asyncio.Task[None]] = set()
        self._events = mock.patch.object(file_events, "Observer", NoEvents)
        self._events.start()
        self._begin()

    def _begin(self) -> None:
        self._runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        loop = self._runner.get_loop()
        loop.set_default_executor(Inline())
        self.machine.clock.enter(loop)
        self.house = House(self.machine)
        self.operations = self._do(self._enter())

    async def _enter(self) -> Operations:
        self._stack = AsyncExitStack()
        return await self._stack.enter_async_context(self.house.lived_in())

    async def _leave(self) -> None:
        await self._stack.aclose()
        await self.operations.aclose()
        await self.house.launcher.aclose()

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(what)

    async def _ask(self, what: Callable[[], Coroutine[Any, Any, object]], pause: float) -> None:
        """Do what an operator asks for, who may be told that it cannot be; wait for ``pause``."""
        try:
            await what()
        except ModeliumError as exc:
            logging.getLogger(__name__).info("the operator is told: %s", exc)
        await asyncio.sleep(pause)

    @initialize()
    def arrive(self) -> None:
        """Two models are loaded, which are all that the device has room for."""
        for name in ("ape", "bee"):
            self.drop(name, 0.0)
        self._do(asyncio.sleep(30.0))

    # --- what people do -----------------------------------------------------------------------

    @rule(name=NAMES, pause=PAUSES)
    def drop(self, name: str, pause: float) -> None:
        if not (self.machine.config.orchestration.incoming_directory / name).exists():
            drop(self.machine, name, weight=float(next(self._numbers)))
        self._do(asyncio.sleep(pause))

    @rule(name=NAMES, pause=PAUSES)
    def load(self, name: str, pause: float) -> None:
        self._do(self._ask(lambda: self.operations.load(name), pause))

    @rule(name=NAMES, pause=PAUSES)
    def unload(self, name: str, pause: float) -> None:
        self._do(self._ask(lambda: self.operations.unload(name), pause))

    @rule(name=NAMES, pause=PAUSES)
    def remove(self, name: str, pause: float) -> None:
        remove = self.operations.versions.remove
        self._do(self._ask(lambda: remove(name, by="me", purge=False, force=False), pause))

    @rule(name=NAMES, pause=PAUSES)
    def roll_back(self, name: str, pause: float) -> None:
        self._do(self._ask(lambda: self.operations.versions.rollback(name, by="me"), pause))

    @rule(name=NAMES, seconds=st.sampled_from((0.0, 3.0)), pause=PAUSES)
    def request(self, name: str, seconds: float, pause: float) -> None:
        self._do(self._send(name, seconds, pause))

    async def _send(self, name: str, seconds: float, pause: float) -> None:
        number, clock = f"r{next(self._numbers)}", self.machine.clock

        async def client() -> None:
            self.journal.sent(number, model=name, at=clock.monotonic())
            try:
                async with self.house.services.switchboard.admit(name) as upstream:
                    served = upstream.served_name.partition("@")[0]
                    await asyncio.sleep(seconds)
            except ModeliumError:
                self.journal.answered(number, at=clock.monotonic(), status=503)
            except asyncio.CancelledError:
                self.journal.broke(number, at=clock.monotonic(), why="the service has stopped")
                self.journal.fault(clock.monotonic(), clock.monotonic())
            else:
                self.journal.answered(number, at=clock.monotonic(), status=200, model=served)

        self._clients.add(asyncio.create_task(client()))
        await asyncio.sleep(pause)

    # --- time and bad luck --------------------------------------------------------------------

    @rule(seconds=st.sampled_from((12.0, 70.0)))
    def wait(self, seconds: float) -> None:
        self._do(asyncio.sleep(seconds))

    @rule(name=NAMES, pause=PAUSES)
    def lose(self, name: str, pause: float) -> None:
        for held in list(self.machine.runtime.held):
            if held.partition("@")[0] == name:
                self.machine.runtime.lose(held)
        self._do(asyncio.sleep(pause))

    @rule(what=st.sampled_from(("refuse", "kill", "away", "stay", "blind")))
    def fail(self, what: str) -> None:
        runtime = self.machine.runtime
        match what:
            case "refuse":
                runtime.failure = LoadFailed("no such operator", kind=FailureKind.UNSUPPORTED)
            case "kill":
                runtime.failure = LoadFailed("it was killed", kind=FailureKind.KILLED)
            case "away":
                runtime.healthy = False
                runtime.failure = runtime.unload_failure = Unavailable("connection refused")
            case "stay":
                runtime.unload_failure = Unavailable("connection refused")
            case _:
                runtime.discover_failure = Unavailable("no answer")

    @rule()
    def heal(self) -> None:
        runtime = self.machine.runtime
        runtime.failure = runtime.unload_failure = runtime.discover_failure = None
        runtime.healthy = True

    @rule(days=st.sampled_from((-1, 1)))
    def jump(self, days: int) -> None:
        self.machine.clock.jumped += days * DAY_S

    @rule()
    def restart(self) -> None:
        self._do(self._leave())
        self._end()
        self._begin()

    @rule()
    def kill(self) -> None:
        self.machine.points.dead = True  # nothing that it still does has an effect
        self._end()
        self.machine.points.dead = False
        self._begin()

    def _end(self) -> None:
        self._runner.close()
        self.house.close()

    # --- what must hold -----------------------------------------------------------------------

    @invariant()
    def nothing_is_wrong(self) -> None:
        scene = self.machine.scene(bounds={})
        found = violations(scene) + list(self.journal.violations(now=self._now()))
        assert not (new := self._new(found)), "\n".join(new)

    def _new(self, found: list[str]) -> list[str]:
        self.seen |= {kind_of(each) for each in found} & self.listed
        return [each for each in found if kind_of(each) not in self.listed]

    def _now(self) -> float:
        return self.machine.clock.monotonic()

    def teardown(self) -> None:
        try:
            self.heal()
            self._do(self._rest())
        finally:
            try:
                self._do(self._leave())
            finally:
                self._end()
                self._events.stop()
                self._folder.cleanup()

    async def _rest(self) -> None:
        until = self._now() + REST_S
        while new := self._new(violations(self.machine.scene(), at_rest=True)):
            assert self._now() < until, "\n".join(new)
            await asyncio.sleep(5.0)


FUZZ = settings().print_blob
"""Whether this is `make fuzz`, where the examples are others in each run."""


@pytest.mark.hypothesis
def test_lives() -> None:
    Lives.seen.clear()

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Lives,
        settings=settings(
            max_examples=max(10, settings().max_examples // 10),
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Shrinking takes minutes: `make fuzz` does it.
            phases=settings().phases if FUZZ else [Phase.generate],
        ),
    )

    mended = Lives.listed - Lives.seen
    assert FUZZ or not mended, f"mended; take out of open.tsv: {sorted(mended)}"
    if Lives.seen:
        pytest.xfail(f"known: {sorted(Lives.seen)}")
