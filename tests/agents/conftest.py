"""Fixtures for tests of the brain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from agents.brain import AdvisedBrain
from agents.llm.agent import Agent, Budget
from agents.llm.endpoint import Endpoint as Client
from agents.llm.lookups import History, no_history
from modelium.clock import SystemClock
from tests.agents.advising import KEY, RULES, Build, House
from tests.fakes.llm import Player, endpoint


@pytest.fixture
async def house() -> AsyncIterator[Build]:
    async with AsyncExitStack() as stack:

        async def build(
            player: Player,
            *,
            seconds: float = 120.0,
            rounds: int = 4,
            tokens: int = 50_000,
            served_as: str | None = None,
            history: History = no_history,
            tools: bool = True,
            schema: bool = True,
        ) -> House:
            fake = await stack.enter_async_context(endpoint(player, tools=tools, schema=schema))
            clock = SystemClock()
            agent = Agent(
                endpoint=Client(base_url=fake.base_url, model="judge", api_key=KEY),
                clock=clock,
                budget=Budget(seconds=seconds, rounds=rounds, tokens=tokens),
            )
            brain = AdvisedBrain(
                rules=RULES, agent=agent, clock=clock, served_as=served_as, history=history
            )
            return House(fake, brain)

        yield build
