from __future__ import annotations

import json
from typing import Any

import pytest

from agents.brain import AdvisedBrain
from agents.llm.agent import Agent, Budget
from agents.llm.endpoint import Endpoint as Client
from modelium.clock import SystemClock
from modelium.models import (
    RuntimeName,
)
from tests.agents.advising import (
    INGEST,
    KEY,
    RULES,
    Build,
    House,
    good,
    newcomer,
    own,
)
from tests.fakes.fleets import fleet
from tests.fakes.llm import Answer, Body, calls, says


async def test_the_key_is_sent_to_the_endpoint_and_never_recorded(house: Build) -> None:
    home = await house(
        lambda body: Answer(status=401, body=f'{{"error":{{"message":"{KEY} is wrong"}}}}'.encode())
    )
    plan, advice = await home.answer(INGEST, fleet(newcomer()))
    assert home.endpoint.headers[-1]["authorization"] == f"Bearer {KEY}"
    assert plan.fallback.startswith("endpoint-error: HTTP 401")
    assert KEY not in plan.model_dump_json() + advice.model_dump_json()
    assert "***" in plan.fallback


@pytest.mark.parametrize(
    ("tools", "schema", "asks_with"),
    [(False, True, "response_format"), (True, False, "tools"), (False, False, "")],
)
async def test_an_endpoint_is_asked_according_to_its_capabilities(
    house: Build, tools: bool, schema: bool, asks_with: str
) -> None:
    answer = {"reason": "r", "runtime": "ray_serve", "priority": "low"}

    def plays(body: Body) -> dict[str, Any]:
        return (
            calls("decide", answer)
            if "tools" in body
            else says(f"Sure:\n```json\n{json.dumps(answer)}\n```")
        )

    home = await house(plays, tools=tools, schema=schema)
    plan, _ = await home.answer(INGEST, fleet(newcomer()))
    assert own(plan).runtime is RuntimeName.RAY_SERVE
    (asked,) = home.endpoint.seen
    assert {k for k in ("response_format", "tools") if k in asked} == ({asks_with} - {""})
    await home.answer(INGEST, fleet(newcomer()))
    assert len(home.endpoint.probes) == 2, "what it can do is found out once"


async def test_the_rules_decide_when_nothing_listens(house: Build) -> None:
    home = await house(good)
    clock = SystemClock()
    agent = Agent(
        endpoint=Client(base_url="http://127.0.0.1:9/v1", model="m", api_key=None),
        clock=clock,
        budget=Budget(seconds=120, rounds=1, tokens=1000),
    )
    silent = House(home.endpoint, AdvisedBrain(rules=RULES, agent=agent, clock=clock))
    plan, _ = await silent.answer(INGEST, fleet(newcomer()))
    assert plan.fallback.startswith("endpoint-error")
