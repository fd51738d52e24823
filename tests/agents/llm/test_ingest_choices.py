from __future__ import annotations

from modelium.models import (
    Priority,
    Wishes,
)
from tests.agents.advising import (
    INGEST,
    Build,
    busy,
    newcomer,
    own,
    said,
)
from tests.fakes.fleets import fleet, loaded
from tests.fakes.llm import calls, says


async def test_the_schema_allows_only_what_is_legal_now(house: Build) -> None:
    home = await house(lambda body: says({}), tools=False)
    await home.answer(INGEST, fleet(newcomer(priority_ceiling=Priority.MEDIUM), gib=20))
    schema = home.endpoint.seen[0]["response_format"]["json_schema"]["schema"]
    fields = schema["properties"]
    assert fields["priority"]["enum"] == ["medium", "low"]
    assert fields["max_model_len"]["enum"] == [2048, 4096, 8192, 16384, 32768]
    assert schema["additionalProperties"] is False
    await home.answer(INGEST, fleet(newcomer(), gib=16))
    schema = home.endpoint.seen[1]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["max_model_len"]["enum"] == [2048, 4096, 8192, 16384]


async def test_contexts_end_at_the_owners_wish(house: Build) -> None:
    home = await house(lambda body: says({}), tools=False)
    for context in (16_384, 2048):
        new = newcomer().model_copy(update={"wishes": Wishes(context=context)})
        await home.answer(INGEST, fleet(new, gib=20))
    wide, exact = (
        seen["response_format"]["json_schema"]["schema"]["properties"]
        for seen in home.endpoint.seen
    )
    assert wide["max_model_len"]["enum"] == [2048, 4096, 8192, 16384]
    assert "max_model_len" not in exact


async def test_a_choice_that_does_not_fit_is_refused(house: Build) -> None:
    # 32k tokens take 8 GiB more than is free; the rules' 2k fit.
    answers = [{"max_model_len": 32768}, {"max_model_len": 8192}]
    home = await house(lambda body: calls("decide", answers[len(home.endpoint.seen) - 1]))
    full = loaded("other", "n/g0", gib=12, idle_s=5, traffic=busy())
    plan, _advice = await home.answer(INGEST, fleet(newcomer(), full, gpus=1, gib=28))
    assert "32768' is not allowed; one of: 2048, 4096, 8192" in said(home.endpoint.seen[1])
    assert own(plan).settings.max_model_len == 8192
