"""`modelium brain report` and what `modelium explain` says of outcomes, over a real gateway."""

from __future__ import annotations

import json

import pytest

from modelium.models import DepartureKind, Trigger
from modelium.traffic.request_log import LoggedRequest
from tests.fakes.trust import earn
from tests.modelium.cli.conftest import Run
from tests.modelium.conftest import World

pytestmark = pytest.mark.slow

LINE = {"model": "tiny", "prompt_tokens": None, "generated_tokens": None, "latency_s": 0.1}


async def test_explain_says_what_came_of_each_decision(world: World, run: Run) -> None:
    await world.load()
    ready = await world.event("model.ready")
    world.store.history.log([LoggedRequest(at=ready.at + 4, **LINE)])  # type: ignore[arg-type]
    world.clock.advance(10)
    text = (await run("explain", "tiny")).output
    assert "→ load tiny: ready after 0.0 s; first request 4 s later" in text
    assert "setup" not in text
    (outcome,) = json.loads((await run("explain", "tiny", "--json")).output)["outcomes"]
    assert outcome["summary"] == "ready after 0.0 s; first request 4 s later"
    assert (outcome["action"], outcome["asked_after_s"]) == ("load", pytest.approx(4, abs=0.01))


async def test_the_report_compares_who_decided(world: World, run: Run) -> None:
    await world.load()
    await world.launcher.evict(models=["tiny"])
    world.clock.advance(60)
    rows = {
        row["author"]: row
        for row in json.loads((await run("brain", "report", "--json")).output)["authors"]
    }
    assert set(rows) == {"operator", "rules"}
    assert (rows["operator"]["unloads"], rows["operator"]["reversals"]) == (1, 0)
    assert (rows["rules"]["loads"], rows["rules"]["reversals"]) == (1, 1)
    head, _, _, operator, rules = (await run("brain", "report")).output.splitlines()
    assert head.startswith("all decisions since 1970-01-12 ")
    assert head.endswith(" (older ones are not kept)")
    assert operator.split() == ["operator", *["1", "0", "0", "1", "0", "0", "0", "0", "0", "0"]]
    assert rules.split() == ["rules", *["1", "0", "1", "0", "0", "0", "0", "0", "1", "1"]]


async def test_the_report_may_be_of_one_trigger_and_of_a_shorter_time(
    world: World, run: Run
) -> None:
    await world.load()
    await world.launcher.evict(models=["tiny"])
    found = json.loads((await run("brain", "report", "--trigger", "ingest", "--json")).output)
    assert [row["author"] for row in found["authors"]] == ["rules"]
    assert found["trigger"] == Trigger.INGEST
    world.clock.advance(7200)
    text = (await run("brain", "report", "--since", "1h", "--trigger", "operator")).output
    assert text == "no decision has been made in this time\n"
    text = (await run("brain", "report", "--since", "3h", "--trigger", "operator")).output
    assert text.startswith("decisions at operator since ")
    assert text.splitlines()[3].split() == [
        "operator",
        *["1", "0", "0", "1", "0", "0", "0", "0", "0", "0"],
    ]


async def test_the_report_says_which_kinds_of_departure_are_trusted(world: World, run: Run) -> None:
    world.services.policy = world.services.policy.model_copy(
        update={"departures": {DepartureKind.QUEUE: 300.0, DepartureKind.EVICT: 300.0}}
    )
    earn(world.store, world.clock, DepartureKind.EVICT)
    await world.load()
    assert (await run("brain", "report")).output.splitlines()[-2:] == [
        "departures: queue: 0 carried out, 0 only recorded; 0 right, 0 wrong; not trusted yet",
        "departures: evict: 0 carried out, 3 only recorded; 3 right, 0 wrong; trusted",
    ]


async def test_an_empty_store_reports_that_there_is_nothing(run: Run) -> None:
    assert (await run("brain", "report")).output == "no decision has been made in this time\n"


@pytest.mark.parametrize("given", ["7", "-1d", "0s", "week", ""])
async def test_a_time_that_is_none_is_refused(run: Run, given: str) -> None:
    result = await run("brain", "report", f"--since={given}")
    assert result.exit_code == 2
    assert "write 90s, 30m, 12h or 7d" in " ".join(result.output.replace("│", " ").split())


async def test_a_time_beyond_ten_years_is_refused(run: Run) -> None:
    result = await run("brain", "report", "--since=4000d")
    assert result.exception is not None and "seconds" in str(result.exception)
