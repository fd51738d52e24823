"""What the planner subprocess reads and answers, without a process."""

from __future__ import annotations

import io
import logging
import pickle
from typing import Any

import pytest

from agents.replay.simulated_fleet import SimulatedClock
from agents.rules.planner import RulePlanner
from agents.rules.subprocess import (
    LENGTH_BYTES,
    MODELS_PER_CHUNK,
    RETRY_AFTER_S,
    PlannerSubprocess,
    _chunks,
    serve,
)
from modelium.models import Fleet, Plan, Trigger
from modelium.models.advice import RULES_ALONE, Advice
from modelium.ports import Question
from tests.fakes.fleets import NOW, fleet, loaded, model, policy

SWEEP = Question(trigger=Trigger.SWEEP, now=NOW)
FIRST = fleet(loaded("old", "n/g0", idle_s=9000), model("new"))
SECOND = fleet(loaded("other", "n/g1", idle_s=9000))


def asked(world: Fleet, advice: Advice = RULES_ALONE) -> bytes:
    rest = world.model_copy(update={"models": ()})
    chunks = [pickle.dumps(chunk) for chunk in _chunks(world)]
    return b"".join((*chunks, pickle.dumps((SWEEP, rest, policy(), advice))))


def answers(raw: bytes) -> list[Plan]:
    stream, found = io.BytesIO(raw), []
    while head := stream.read(LENGTH_BYTES):
        found.append(pickle.loads(stream.read(int.from_bytes(head, "big"))))
    return found


def expected(world: Fleet, advice: Advice = RULES_ALONE) -> Plan:
    return RulePlanner().plan(SWEEP, world, policy(), advice)


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_each_question_is_answered_by_itself_until_the_stream_ends(cut: int) -> None:
    advice = Advice(prewarm=("new",))
    rest = asked(FIRST)[:cut]
    reader = io.BytesIO(asked(FIRST) + asked(SECOND) + asked(fleet()) + asked(FIRST, advice) + rest)
    writer = io.BytesIO()
    serve(reader, writer)
    assert answers(writer.getvalue()) == [
        expected(FIRST), expected(SECOND), expected(fleet()), expected(FIRST, advice),
    ]  # fmt: skip
    assert [len(plan.actions) for plan in answers(writer.getvalue())][:2] == [1, 1]


def test_an_owner_that_is_gone_does_not_fail_the_subprocess() -> None:
    class Closed(io.BytesIO):
        def write(self, _: Any) -> int:
            raise BrokenPipeError

    serve(io.BytesIO(asked(FIRST) + asked(SECOND)), Closed())


def test_models_are_sent_in_chunks_that_hold_each_once() -> None:
    world = fleet(*(model(f"m{i}") for i in range(2 * MODELS_PER_CHUNK + 1)))
    chunks = _chunks(world)
    assert [len(chunk) for chunk in chunks] == [MODELS_PER_CHUNK, MODELS_PER_CHUNK, 1]
    assert sum(chunks, ()) == world.models
    assert _chunks(fleet()) == []


async def test_fleets_from_the_least_size_on_are_handed_over_except_after_a_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = SimulatedClock()
    process = PlannerSubprocess(clock=clock, command=("/nowhere",), min_models=2)

    async def tries(world: Fleet) -> bool:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "agents.rules.subprocess"):
            assert await process(SWEEP, world, policy(), RULES_ALONE) is None
        return bool(caplog.records)

    assert not await tries(SECOND)
    assert await tries(FIRST)
    assert not await tries(FIRST)
    clock.now += RETRY_AFTER_S - 1
    assert not await tries(FIRST)
    clock.now += 1
    assert await tries(FIRST)
    await process.aclose()
