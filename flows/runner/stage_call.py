"""One execution of a stage, started once: by its Prefect run or by its caller."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

from modelium.errors import PermanentError
from modelium.models import Report
from modelium.ports import Stage, Steps
from modelium.stages.inline import Stages
from modelium.stages.services import Services


class StageCall:
    """A stage that runs on the service's event loop; may be used from any thread.

    The stage runs at most once, whatever happens to the Prefect run that records it.
    """

    def __init__(
        self,
        *,
        stage: Stage,
        parameters: Mapping[str, Any],
        stages: Stages,
        services: Callable[[], Services],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context,
        unrecorded: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare the call; nothing runs before `begin`.

        Args:
            stage: which one.
            parameters: what the stage is given beside services and steps.
            stages: stage name → function.
            services: called in ``context``.
            loop: the service's event loop.
            context: of the stage; it is copied.
            unrecorded: parameters that are objects of this process, not part of the record.
        """
        self.stage = stage
        self.parameters = dict(parameters)
        self.loop = loop
        self.tags: frozenset[str] = frozenset()
        """Of its flow run, beside those of its parameters and its report."""
        self.outcome: Future[Report] = Future()
        """The stage's result or error; never cancelled."""
        self._stages = stages
        self._services = services
        self._context = context
        self._unrecorded = dict(unrecorded or {})
        self._lock = threading.Lock()
        self._begun: Future[None] = Future()
        self._task: asyncio.Task[Report] | None = None
        self._cancelled = ""

    @property
    def begun(self) -> bool:
        """Whether the stage runs, has run, or was cancelled before it began."""
        return self._begun.done()

    @property
    def cancelled(self) -> str:
        """The reason of its cancellation; empty where it was not cancelled."""
        return self._cancelled

    def begin(self, steps: Steps, parameters: Mapping[str, Any] | None = None) -> bool:
        """Start the stage unless it has been started or cancelled; return whether this call did.

        ``parameters``: as validated by the flow, in place of the original ones.
        """
        with self._lock:
            if self.begun:
                return False
            self._begun.set_result(None)
            if parameters is not None:
                self.parameters = dict(parameters)
        self.loop.call_soon_threadsafe(self._create, steps, context=self._context.copy())
        return True

    def cancel(self, reason: str) -> None:
        """Cancel the stage; after its clean-up, `outcome` is a `PermanentError` with ``reason``."""
        with self._lock:
            if self.outcome.done() or self._cancelled:
                return
            self._cancelled = reason
            begun = self.begun
            if not begun:
                self._begun.set_result(None)
        if begun:
            self.loop.call_soon_threadsafe(self._cancel)
        else:
            self.outcome.set_exception(PermanentError(reason))

    async def wait_begun(self, *, timeout_s: float) -> bool:
        """Wait until it has `begun`; False when ``timeout_s`` passed first."""
        done, _ = await asyncio.wait({asyncio.wrap_future(self._begun)}, timeout=timeout_s)
        return bool(done)

    async def wait(self) -> Report:
        """Return the stage's result, on any event loop; the stage survives a cancelled wait."""
        await self.wait_done()
        return self.outcome.result()

    async def wait_done(self) -> None:
        """Wait until `outcome` is set, on any event loop."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def end() -> None:
            if not ended.done():
                ended.set_result(None)

        def tell(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the waiting loop has been closed
                loop.call_soon_threadsafe(end)

        self.outcome.add_done_callback(tell)
        await ended

    def _create(self, steps: Steps) -> None:
        self._task = self.loop.create_task(
            self._run(steps), name=f"stage {self.stage} {self.parameters.get('model', '')}"
        )
        self._task.add_done_callback(self._settle)

    async def _run(self, steps: Steps) -> Report:
        return await self._stages[self.stage](
            self._services(), **self.parameters, **self._unrecorded, steps=steps
        )

    def _cancel(self) -> None:
        if self._task:
            self._task.cancel()

    def _settle(self, task: asyncio.Task[Report]) -> None:
        if task.cancelled():
            # Callers must not take an operator's cancellation for their own.
            self.outcome.set_exception(PermanentError(self._cancelled or "the stage was cancelled"))
        elif error := task.exception():
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(task.result())


current: ContextVar[StageCall] = ContextVar("modelium_stage_call")
"""The call that the flow run of this context records."""
