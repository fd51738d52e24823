"""What happens to models reaches Prefect's automations, on the embedded server as it is shipped."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter

from flows.runner.service import PrefectService
from flows.table import FLOWS
from modelium.models import Event
from tests.flows.conftest import AUTH, Scenes, eventually

pytestmark = pytest.mark.real

EXAMPLE = Path(__file__).parents[3] / "deploy" / "prefect_automation.py"


async def test_an_event_arrives_with_its_model_and_what_is_known_of_it(
    home: PrefectService, client: PrefectClient
) -> None:
    wanted = EventFilter(event=EventNameFilter(name=["modelium.plan.refused"]))
    detail = {"rule": "pinned", "reason": "it is pinned, and " + "so on " * 40}
    now = time.time()
    async with get_events_subscriber(filter=wanted) as subscriber:
        home.announce(Event(at=now, kind="plan.refused", model="gpt2", detail=detail))
        home.announce(Event(at=now + 1, kind="plan.refused", detail={"rule": "memory"}))
        async with asyncio.timeout(30):
            first, second = await anext(subscriber), await anext(subscriber)
    assert first.resource.id == "modelium.model.gpt2"
    assert first.resource["modelium.rule"] == "pinned"
    assert "modelium.reason" not in first.resource, "sentences are no labels"
    assert first.payload == detail
    assert first.occurred.timestamp() == pytest.approx(now, abs=1e-3)
    assert second.resource.id == "modelium.node.node-a"


async def test_the_example_automation_loads_a_second_model_when_the_first_is_ready(
    home: PrefectService, scenes: Scenes, api_url: str
) -> None:
    for _ in range(2):  # running it again replaces it
        script = await asyncio.create_subprocess_exec(
            *(sys.executable, str(EXAMPLE), "--ready", "chat", "--load", "reranker"),
            env={
                **os.environ,
                "PREFECT_API_URL": api_url,
                "PREFECT_API_AUTH_STRING": AUTH,
            },
        )
        assert await asyncio.wait_for(script.wait(), 120) == 0
    home.announce(Event(at=1.0, kind="model.ready", model="something-else"))

    # The server's triggers learn of a new automation a moment after it was created.
    async def loaded() -> bool:
        home.announce(Event(at=1.0, kind="model.ready", model="chat"))
        await asyncio.sleep(1)
        return bool(scenes.seen("load"))

    await eventually(loaded)
    assert {seen["model"] for seen in scenes.seen("load")} == {"reranker"}


async def test_events_while_prefect_is_away_are_dropped_without_a_word(tmp_path: Path) -> None:
    from typing import cast

    from modelium.clock import SystemClock
    from modelium.config import Config, Orchestration, Prefect
    from modelium.stages.services import Services

    home = PrefectService(
        flows=FLOWS,
        config=Config(
            prefect=Prefect(api_url="http://127.0.0.1:9/api"),
            orchestration=Orchestration(state_directory=tmp_path, node="n"),
        ),
        stages={},
        services=lambda: cast(Services, None),
        clock=SystemClock(),
        environ={},
    )
    home.announce(Event(at=1.0, kind="model.ready", model="chat"))
    async with home:
        home.announce(Event(at=1.0, kind="model.ready", model="chat"))
        assert not home.connected
