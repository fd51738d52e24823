from __future__ import annotations

import json

from tests.agents.advising import (
    INGEST,
    Build,
    good,
    newcomer,
)
from tests.fakes.fleets import fleet


async def test_the_record_has_all_messages_tokens_and_the_plan_of_the_rules(house: Build) -> None:
    home = await house(good)
    _, advice = await home.answer(INGEST, fleet(newcomer()))
    trace = json.loads(json.dumps(advice.trace))
    roles = [m["role"] for m in trace["messages"]]
    assert roles == ["system", "user", "assistant", *["tool"] * 3, "assistant", "tool"]
    assert [c["tool"] for c in trace["messages"][2]["calls"]] == ["card", "traffic", "fleet"]
    assert trace["prompt_tokens"] > 100 and trace["completion_tokens"] > 10
    assert len(trace["replies"]) == 2 and trace["seconds"] > 0
    assert trace["rules"][0]["settings"]["max_model_len"] == 2048
    assert trace["chosen"]["priorities"] == {"new": "medium"}
