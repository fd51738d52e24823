"""Answers what other nodes ask, while this one plans."""

from __future__ import annotations

import asyncio
import logging

from modelium.control.following import at_each_change
from modelium.errors import ModeliumError, NotPlanner, StoreUnavailable
from modelium.models import Decision
from modelium.stages import decide
from modelium.stages.asking import asked, decided, failed
from modelium.stages.locality import is_carried_out_here
from modelium.stages.planning import place_here
from modelium.stages.services import Services
from modelium.store.questions import Asked
from modelium.tasks import BackgroundTasks

logger = logging.getLogger(__name__)


class Answering:
    """Answers each question once, several at a time."""

    def __init__(self, *, services: Services) -> None:
        """Answer for ``services``."""
        self._services = services
        self._at: set[str] = set()
        self._tasks = BackgroundTasks()

    async def run(self) -> None:
        """Answer until cancelled."""
        try:
            what = "what other nodes ask could not be read"
            await at_each_change(self._services, self._begin_new, failing=what)
        finally:
            await self._tasks.aclose()

    async def _begin_new(self) -> None:
        """Begin to answer each question that is open and nobody here is at."""
        store = self._services.store
        if not store.plans:
            return
        for question in await store.questions.open():
            if question.id not in self._at:
                self._at.add(question.id)
                self._tasks.start(self._answer(question), name=f"ask {question.id}")

    async def _answer(self, one: Asked) -> None:
        try:
            await self._decide(one)
        finally:
            self._at.discard(one.id)

    async def _decide(self, one: Asked) -> None:
        services, decision = self._services, None
        try:
            question, plan = asked(one.document, now=services.clock.time())
            decision = await place_here(services, question, plan)
            answer = decided(decision)
        except NotPlanner:
            return  # the node that plans by now answers
        except StoreUnavailable as exc:
            logger.info("a question of %s waits for the store: %s", one.node, exc)
            return
        except ModeliumError as exc:
            answer = failed(exc)
        except Exception as exc:
            logger.exception("a question of %s could not be answered", one.node)
            answer = failed(ModeliumError(f"the node that plans failed to decide: {exc}"))
        await services.store.questions.answer(one.id, answer)
        if decision is not None and decision.outcome == "accepted":
            await self._begin(decision)

    async def _begin(self, decision: Decision) -> None:
        """Begin what the decision says for this node; the others see it in the store."""
        services = self._services
        if not decision.plan.loads and not decision.plan.unloads:
            await services.store.decisions.finish(decision.id, outcome="done")
        elif is_carried_out_here(services, decision):
            try:
                await decide.begin(services, decision)
            except (ModeliumError, asyncio.CancelledError) as exc:
                logger.warning("what decision %s says could not be begun: %s", decision.id, exc)
