"""The rule planner in a process of its own, for fleets whose plans take long.

Planning is pure Python: in a thread it competes with the gateway's event loop for the
interpreter, and each switch delays a request. The subprocess answers one question at a time, runs
at a lower priority, keeps no state between questions, and exits when its pipe is closed.
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
from modelium.ports import Clock, Question

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "agents.rules.subprocess")
"""``-P``: modules in the working directory do not shadow ours, which are found under `ROOT`."""

ROOT = Path(__file__).parents[2]

MIN_MODELS = 200
"""Smaller fleets are planned by the caller: handing them over takes about as long as the plan."""

MODELS_PER_CHUNK = 50
"""Models pickled at once: pickling holds the interpreter, half a millisecond for this many."""

DEADLINE_S = 10.0
"""For one answer, including the wait for earlier ones and the start of the process: each takes
about a second."""

RETRY_AFTER_S = 300.0
"""After a failure, the caller plans for this long: the next attempt may fail as slowly."""

NICENESS = 10
"""Requests come before plans; on a busy processor this leaves plans a tenth of it."""

LENGTH_BYTES = 8
"""Size of the length that precedes an answer, big-endian."""


class PlannerSubprocess:
    """A `planner.Offload`; starts with the first question and restarts after a failure."""

    def __init__(
        self,
        *,
        clock: Clock,
        command: Sequence[str] = COMMAND,
        min_models: int = MIN_MODELS,
        deadline_s: float = DEADLINE_S,
        retry_after_s: float = RETRY_AFTER_S,
    ) -> None:
        """Start no process yet.

        Args:
            clock: for the pause after a failure.
            command: starts the process.
            min_models: smaller fleets are left to the caller.
            deadline_s: for one answer, including the start of the process.
            retry_after_s: pause after a failure, in which all fleets are left to the caller.
        """
        self._clock = clock
        self._command = tuple(command)
        self._min_models = min_models
        self._deadline_s = deadline_s
        self._retry_after_s = retry_after_s
        self._lock = asyncio.Lock()
        self._process: Process | None = None
        self._paused_until = float("-inf")

    async def __call__(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice
    ) -> Plan | None:
        """Return the plan; ``None`` where the caller has to plan."""
        now = self._clock.monotonic
        if len(fleet.models) < self._min_models or now() < self._paused_until:
            return None
        try:
            async with asyncio.timeout(self._deadline_s), self._lock:
                return await self._answer(question, fleet, policy, advice)
        except Exception as exc:
            # Whatever the failure, the caller can plan.
            logger.warning(
                "the planner subprocess failed; plans are made in this process for the next "
                "%.0f s: %r",
                self._retry_after_s,
                exc,
            )
            self._paused_until = now() + self._retry_after_s
            return None

    async def aclose(self) -> None:
        """Kill the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _answer(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice
    ) -> Plan:
        try:
            return await self._exchange(question, fleet, policy, advice)
        except BaseException:
            # What is left in the pipes would be read as part of the next question or answer.
            await self.aclose()
            raise

    async def _exchange(
        self, question: Question, fleet: Fleet, policy: Policy, advice: Advice
    ) -> Plan:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                stdout=PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None  # noqa: S101 - both are pipes
        for chunk in _chunks(fleet):
            stdin.write(await asyncio.to_thread(pickle.dumps, chunk))
            await stdin.drain()
        rest = fleet.model_copy(update={"models": ()})
        stdin.write(await asyncio.to_thread(pickle.dumps, (question, rest, policy, advice)))
        await stdin.drain()
        length = int.from_bytes(await stdout.readexactly(LENGTH_BYTES), "big")
        plan = pickle.loads(await stdout.readexactly(length))  # noqa: S301 - from our own process
        if not isinstance(plan, Plan):
            raise TypeError(f"the subprocess returned {type(plan).__name__} instead of a plan")
        return plan


def _chunks(fleet: Fleet) -> list[tuple[Model, ...]]:
    step = MODELS_PER_CHUNK
    return [fleet.models[i : i + step] for i in range(0, len(fleet.models), step)]


def serve(reader: BinaryIO, writer: BinaryIO) -> None:
    """Answer the questions from ``reader`` until it ends.

    A question is any number of pickled tuples of models, then a pickled tuple of the question,
    the fleet without its models, the policy and the advice.
    """
    planner, models = RulePlanner(), list[Model]()
    while True:
        try:
            message = pickle.load(reader)  # noqa: S301 - from the process that started this one
        except (EOFError, pickle.UnpicklingError):
            return  # the parent is gone, perhaps in the middle of a question
        if isinstance(message[0], Model):
            models += message
            continue
        question, rest, policy, advice = message
        fleet = rest.model_copy(update={"models": tuple(models)})
        models.clear()
        answer = pickle.dumps(planner.plan(question, fleet, policy, advice))
        with contextlib.suppress(BrokenPipeError):
            writer.write(len(answer).to_bytes(LENGTH_BYTES, "big") + answer)
            writer.flush()


def main() -> None:
    """Serve on the standard streams."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which kills us
    os.nice(NICENESS)
    with os.fdopen(os.dup(1), "wb") as writer:
        os.dup2(2, 1)  # anything printed goes to stderr, not into an answer
        serve(sys.stdin.buffer, writer)


if __name__ == "__main__":
    main()
