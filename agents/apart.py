"""The planner in a process of its own, for fleets so large that a plan takes a while.

Planning is all Python: on a thread it takes turns with the gateway's event loop, and each turn
costs a request. The process answers one question after the other, yields to everybody else,
keeps nothing, and ends when the pipe to it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from typing import BinaryIO

from agents.rules import RulePlanner
from modelium.advice import Advice
from modelium.models import Fleet, Model, Plan
from modelium.policy import Policy
from modelium.ports import Question

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "agents.apart")

LARGE = 200
"""From so many models on: below, a plan takes about as long as handing over the fleet."""

PIECE = 50
"""Models that are written at once: the interpreter is held while they are, half a millisecond."""

DEADLINE_S = 30.0
"""For one answer, the process's start included: a hundred times what a plan takes."""

NICE = 10
"""Plans wait rather than requests, but they do get a tenth of a busy processor."""

LENGTH = 8
"""Bytes that tell the length of an answer."""


class PlannerProcess:
    """`agents.rules.Elsewhere`: starts with the first question, and anew where it failed."""

    def __init__(
        self,
        *,
        command: Sequence[str] = COMMAND,
        large: int = LARGE,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Start nothing yet.

        Args:
            command: starts the process.
            large: fleets of fewer models are planned for by the caller.
            deadline_s: for one answer, the start included.
        """
        self._command = tuple(command)
        self._large = large
        self._deadline_s = deadline_s
        self._turn = asyncio.Lock()
        self._process: Process | None = None

    async def __call__(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice
    ) -> Plan | None:
        """Return the plan; ``None`` where the caller is to make it."""
        if len(fleet.models) < self._large:
            return None
        async with self._turn:
            try:
                async with asyncio.timeout(self._deadline_s):
                    return await self._ask(question, fleet, policy, advice)
            except (OSError, EOFError, TimeoutError, pickle.PickleError) as exc:
                logger.warning("the planner's process failed; planning here: %r", exc)
                await self.aclose()
                return None
            except asyncio.CancelledError:
                # An answer that nobody reads would be taken for the next one.
                await self.aclose()
                raise

    async def aclose(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _ask(self, question: Question, fleet: Fleet, policy: Policy, advice: Advice) -> Plan:
        if self._process is None or self._process.returncode is not None:
            # A session of its own: Ctrl-C is for the service, which ends it in its turn.
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, stdout=PIPE, start_new_session=True
            )
        to, back = self._process.stdin, self._process.stdout
        assert to is not None and back is not None  # noqa: S101 - both are pipes
        for piece in _pieces(fleet):
            to.write(await asyncio.to_thread(pickle.dumps, piece))
            await to.drain()
        bare = fleet.model_copy(update={"models": ()})
        to.write(await asyncio.to_thread(pickle.dumps, (question, bare, policy, advice)))
        await to.drain()
        length = int.from_bytes(await back.readexactly(LENGTH), "big")
        plan = pickle.loads(await back.readexactly(length))  # noqa: S301 - from our own process
        if not isinstance(plan, Plan):
            raise pickle.UnpicklingError(f"a plan was expected, not {type(plan).__name__}")
        return plan


def _pieces(fleet: Fleet) -> list[tuple[Model, ...]]:
    return [fleet.models[i : i + PIECE] for i in range(0, len(fleet.models), PIECE)]


def serve(come: BinaryIO, go: BinaryIO) -> None:
    """Answer the questions from ``come`` until it ends."""
    planner, models = RulePlanner(), list[Model]()
    while True:
        try:
            said = pickle.load(come)  # noqa: S301 - from the process that started this one
        except EOFError:
            return
        if isinstance(said[0], Model):
            models += said
            continue
        question, bare, policy, advice = said
        fleet = bare.model_copy(update={"models": tuple(models)})
        models.clear()
        answer = pickle.dumps(planner.plan(question, fleet, policy, advice))
        with contextlib.suppress(BrokenPipeError):  # who asked is gone
            go.write(len(answer).to_bytes(LENGTH, "big") + answer)
            go.flush()


def main() -> None:
    """Serve on the standard streams."""
    os.nice(NICE)
    with os.fdopen(os.dup(1), "wb") as go:
        os.dup2(2, 1)  # whatever prints is no answer
        serve(sys.stdin.buffer, go)


if __name__ == "__main__":
    main()
