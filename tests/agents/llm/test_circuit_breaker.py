from __future__ import annotations

from tests.agents.advising import (
    INGEST,
    Build,
    newcomer,
)
from tests.fakes.fleets import fleet
from tests.fakes.llm import Answer


async def test_an_endpoint_that_keeps_failing_is_not_called(house: Build) -> None:
    home = await house(lambda body: Answer(status=503))
    for _ in range(3):
        plan, _ = await home.answer(INGEST, fleet(newcomer()))
        assert plan.fallback.startswith("endpoint-error")
    asked = len(home.endpoint.seen)
    plan, _ = await home.answer(INGEST, fleet(newcomer()))
    assert plan.fallback.startswith("circuit-open")
    assert len(home.endpoint.seen) == asked
