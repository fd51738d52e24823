"""Operators' requests to act: recorded when they begin, and again when they end."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

from modelium.errors import ModeliumError
from modelium.models import Intent, Report
from modelium.models.decisions import IntentKind
from modelium.stages.services import Services
from modelium.store import new_id
from modelium.tasks import BackgroundTasks

FAILED = frozenset({"rejected", "incomplete", "failed", "busy", "queued", "cancelled"})
"""Outcomes of a stage that fail the operator's request."""


class Intents:
    """Records intents, and awaits what carries them out."""

    def __init__(self, *, services: Services) -> None:
        """``services``: the store and the clock."""
        self._services = services
        self._following = BackgroundTasks()

    async def new(self, kind: IntentKind, model: str | None, parameters: dict[str, Any]) -> Intent:
        """Record a new intent."""
        intent = Intent(
            id=new_id(),
            at=self._services.clock.time(),
            kind=kind,
            model=model,
            parameters=parameters,
            node=self._services.node,
        )
        self._services.attended.add(intent.id)
        with self.held(intent):
            return await self._services.store.intents.save(intent)

    @contextmanager
    def held(self, intent: Intent) -> Iterator[None]:
        """Let go of ``intent`` where what comes before its run fails inside.

        What could not be recorded of it is settled by `control.abandoned`.
        """
        try:
            yield
        except BaseException:
            self._services.attended.discard(intent.id)
            raise

    def follow(self, intent: Intent, run: Awaitable[Report]) -> Intent:
        """Await ``run`` in the background and record how it ended; return ``intent``."""
        task = self._following.start(self._finish(intent, run))
        # However it ends: what it could not record is settled by `control.abandoned`.
        task.add_done_callback(lambda _: self._services.attended.discard(intent.id))
        return intent

    async def aclose(self) -> None:
        """Stop following; the stages that were started continue."""
        await self._following.aclose()

    async def _finish(self, intent: Intent, run: Awaitable[Report]) -> None:
        model = intent.model
        try:
            report = await run
            ok, detail = _is_done(intent, report), report.reason or report.outcome
            model = report.model or model
        except ModeliumError as exc:
            ok, detail = False, str(exc)
        except Exception as exc:
            ok, detail = False, f"{type(exc).__name__}: {exc}"
        await self.end(intent.model_copy(update={"model": model}), detail, ok=ok)

    async def end(self, intent: Intent, detail: str, *, ok: bool = True) -> Intent:
        """Record that ``intent`` ended; ``detail``: how, in one line."""
        ended = {
            "state": "done" if ok else "failed",
            "detail": detail,
            "finished_at": self._services.clock.time(),
        }
        try:
            return await self._services.store.intents.save(intent.model_copy(update=ended))
        finally:
            self._services.attended.discard(intent.id)


def _is_done(intent: Intent, report: Report) -> bool:
    """Whether what the operator asked for holds now: a load that changed nothing is not done."""
    if intent.kind in ("load", "retry"):
        return report.outcome == "ready"
    return report.outcome not in FAILED
