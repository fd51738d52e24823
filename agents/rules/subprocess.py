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
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from agents.rules.planner import RulePlanner
from modelium.models import Fleet, Model, Plan
from modelium.models.advice import Advice
from modelium.policy import Policy
from modelium.ports import Question

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "agents.rules.subprocess")
"""``-P``: what lies in the working directory is not taken for our modules; `ROOT` has them."""

ROOT = Path(__file__).parents[2]

LARGE = 200
"""From so many models on: below, a plan takes about as long as handing over the fleet."""

PIECE = 50
"""Models that are written at once: the interpreter is held while they are, half a millisecond."""

DEADLINE_S = 10.0
"""For one answer, the wait for others and the process's start included: both take a second."""

REST_S = 300.0
"""How long plans are made here after a process failed: the next may fail as slowly."""

NICE = 10
"""Plans wait rather than requests, but they do get a tenth of a busy processor."""

LENGTH = 8
"""Bytes that tell the length of an answer."""


class PlannerProcess:
    """`agents.rules.planner.Elsewhere`: starts with the first question, and anew where it failed."""

    def __init__(
        self,
        *,
        command: Sequence[str] = COMMAND,
        large: int = LARGE,
        deadline_s: float = DEADLINE_S,
        rest_s: float = REST_S,
    ) -> None:
        """Start nothing yet.

        Args:
            command: starts the process.
            large: fleets of fewer models are planned for by the caller.
            deadline_s: for one answer, the start included.
            rest_s: how long no process is asked after one failed.
        """
        self._command = tuple(command)
        self._large = large
        self._deadline_s = deadline_s
        self._rest_s = rest_s
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._rests_until = float("-inf")

    async def __call__(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice
    ) -> Plan | None:
        """Return the plan; ``None`` where the caller is to make it."""
        now = asyncio.get_running_loop().time
        if len(fleet.models) < self._large or now() < self._rests_until:
            return None
        try:
            async with asyncio.timeout(self._deadline_s), self._turn:
                return await self._answer(question, fleet, policy, advice)
        except Exception as exc:
            # Whatever went wrong with it, here is a planner too.
            logger.warning("the planner's process failed; plans are made here: %r", exc)
            self._rests_until = now() + self._rest_s
            return None

    async def aclose(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _answer(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice
    ) -> Plan:
        try:
            return await self._ask(question, fleet, policy, advice)
        except BaseException:
            # What is left in the pipes would be taken for part of the next question or answer.
            await self.aclose()
            raise

    async def _ask(self, question: Question, fleet: Fleet, policy: Policy, advice: Advice) -> Plan:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                stdout=PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        to, back = self._process.stdin, self._process.stdout
        assert to is not None and back is not None  # noqa: S101 - both are pipes
        for piece in _pieces(fleet):
            to.write(await asyncio.to_thread(pickle.dumps, piece))
            await to.drain()
        rest = fleet.model_copy(update={"models": ()})
        to.write(await asyncio.to_thread(pickle.dumps, (question, rest, policy, advice)))
        await to.drain()
        length = int.from_bytes(await back.readexactly(LENGTH), "big")
        plan = pickle.loads(await back.readexactly(length))  # noqa: S301 - from our own process
        if not isinstance(plan, Plan):
            raise TypeError(f"a plan was expected, not {type(plan).__name__}")
        return plan


def _pieces(fleet: Fleet) -> list[tuple[Model, ...]]:
    return [fleet.models[i : i + PIECE] for i in range(0, len(fleet.models), PIECE)]


def serve(reader: BinaryIO, writer: BinaryIO) -> None:
    """Answer the questions from ``reader`` until it ends."""
    planner, models = RulePlanner(), list[Model]()
    while True:
        try:
            said = pickle.load(reader)  # noqa: S301 - from the process that started this one
        except (EOFError, pickle.UnpicklingError):
            return  # who asks is gone, perhaps in the middle of a question
        if isinstance(said[0], Model):
            models += said
            continue
        question, rest, policy, advice = said
        fleet = rest.model_copy(update={"models": tuple(models)})
        models.clear()
        answer = pickle.dumps(planner.plan(question, fleet, policy, advice))
        with contextlib.suppress(BrokenPipeError):
            writer.write(len(answer).to_bytes(LENGTH, "big") + answer)
            writer.flush()


def main() -> None:
    """Serve on the standard streams."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which ends us
    os.nice(NICE)
    with os.fdopen(os.dup(1), "wb") as writer:
        os.dup2(2, 1)  # whatever prints is no answer
        serve(sys.stdin.buffer, writer)


if __name__ == "__main__":
    main()
