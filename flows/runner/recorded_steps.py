"""Steps of a stage as Prefect tasks: recorded and retried there, executed on the stage's loop."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE

from modelium.errors import TransientError
from modelium.stages.inline import RETRIES, RETRY_DELAYS_S, RETRY_JITTER, inline_steps

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

STEP_WAIT_S = 3.0
"""How long a step waits for Prefect to start it or to record its end. 20 ms is usual; after this
the step continues without its record."""


class RecordedSteps:
    """`ports.Steps` for a stage that a flow run records. Made inside that flow run."""

    def __init__(self) -> None:
        """Keep the event loop and the context of the flow run."""
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()

    async def __call__(
        self, name: str, step: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run ``step`` as a task named ``name``; raises its last error."""

        async def bound() -> R:
            return await step(*args, **kwargs)

        attempts = _Attempts(bound)

        async def recorded() -> R:
            return await attempts.task(name)()

        try:
            record = on(self._loop, self._context, recorded())
        except RuntimeError:  # Prefect's event loop is closed: the service is stopping
            return await inline_steps(name, bound)
        try:
            while not record.done():
                await asyncio.wait({record}, timeout=STEP_WAIT_S)
                if not record.done() and attempts.idle:
                    logger.warning(
                        "Prefect does not respond to step %s; continuing without its record", name
                    )
                    break
            return await self._settle(name, attempts, record, bound)
        except asyncio.CancelledError:
            await attempts.abandon()
            record.cancel()
            raise

    async def _settle(
        self,
        name: str,
        attempts: _Attempts[R],
        record: asyncio.Future[R],
        bound: Callable[[], Coroutine[Any, Any, R]],
    ) -> R:
        """Return the step's own outcome, whatever happened to its record."""
        lost = None
        if record.done():
            lost = asyncio.CancelledError() if record.cancelled() else record.exception()
        await attempts.close()
        if attempts.succeeded:
            return attempts.value
        if attempts.error is not None and type(lost) is type(attempts.error):
            raise attempts.error
        return await inline_steps(name, bound)


class _Attempts(Generic[R]):
    """The attempts of one step: Prefect starts each, and it runs on the stage's event loop.

    A cancellation on Prefect's side never interrupts an attempt; only the stage may.
    """

    def __init__(self, bound: Callable[[], Coroutine[Any, Any, R]]) -> None:
        self.error: BaseException | None = None
        self.succeeded = False
        self.value: R
        self._bound = bound
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._running: asyncio.Task[R] | None = None
        self._closed = False

    @property
    def idle(self) -> bool:
        """Whether no attempt is running: none has begun, or one has succeeded."""
        return self.succeeded or (self._running is None and self.error is None)

    def task(self, name: str) -> Task[[], Coroutine[Any, Any, R]]:
        """Return the Prefect task; each of its tries is one attempt."""
        return Task(
            fn=self._hop,
            name=name,
            retries=RETRIES,
            retry_delay_seconds=list(RETRY_DELAYS_S),
            retry_jitter_factor=RETRY_JITTER,
            retry_condition_fn=lambda *_: isinstance(self.error, TransientError),
            cache_policy=NO_CACHE,
            persist_result=False,
        )

    async def close(self) -> None:
        """Allow no further attempt; wait for the running one."""
        self._closed = True
        if self._running:
            await asyncio.wait({self._running})

    async def abandon(self) -> None:
        """Allow no further attempt; cancel the running one and wait for its clean-up."""
        if self._running:
            self._running.cancel()
        await self.close()

    async def _hop(self) -> R:
        return await on(self._loop, self._context, self._attempt())

    async def _attempt(self) -> R:
        if self._closed:
            raise asyncio.CancelledError
        self._running = running = asyncio.create_task(self._bound())
        running.add_done_callback(self._note)
        # Not awaited directly: a cancellation from Prefect's side would reach it, and a second
        # one, beside the stage's own, would interrupt its clean-up.
        await asyncio.wait({running})
        return running.result()

    def _note(self, running: asyncio.Task[R]) -> None:
        self._running = None
        if running.cancelled():
            self.error = asyncio.CancelledError()
        elif error := running.exception():
            self.error = error
        else:
            self.succeeded = True
            self.value = running.result()


def on(
    loop: asyncio.AbstractEventLoop,
    context: contextvars.Context,
    work: Coroutine[Any, Any, R],
) -> asyncio.Future[R]:
    """Run ``work`` on ``loop`` in a copy of ``context``; return a future of the calling loop."""
    return asyncio.wrap_future(context.copy().run(asyncio.run_coroutine_threadsafe, work, loop))
