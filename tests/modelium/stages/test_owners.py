"""A transition that no task is at is noticed, and tried again after growing pauses."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Generator
from typing import Any

import pytest

from modelium.lifecycle import IN_TRANSITION, SETTLED, ModelState
from modelium.models import Model, Report
from modelium.stages.owners import (
    GRACE_S,
    NEW,
    RETRY_LIMIT_S,
    RETRY_S,
    Orphans,
    Owners,
)


def model(state: ModelState = ModelState.LOADING, *, name: str = "m", since: float = 0.0) -> Model:
    return Model(name=name, path="/m", state=state, state_since=since, registered_at=0.0)


def test_a_model_has_an_owner_while_any_task_is_at_it() -> None:
    owners = Owners()
    with owners.of("a", "b"):
        with owners.of("a"):
            assert "a" in owners and "b" in owners
        assert "a" in owners
    assert "a" not in owners and "b" not in owners


def test_an_owner_that_fails_is_none_any_more() -> None:
    owners = Owners()
    with pytest.raises(RuntimeError), owners.of("a"):
        raise RuntimeError
    assert "a" not in owners


def test_every_state_is_of_rest_or_in_transition() -> None:
    resting = SETTLED | {ModelState.READY, ModelState.SLEEPING}
    assert resting | IN_TRANSITION == set(ModelState) and not resting & IN_TRANSITION


@pytest.mark.parametrize("state", list(ModelState))
def test_an_orphan_is_due_after_the_grace(state: ModelState) -> None:
    orphans, owners, models = Orphans(), Owners(), (model(state),)
    assert orphans.due(models, owners, now=100.0) == ()
    assert orphans.due(models, owners, now=100.0 + GRACE_S - 0.1) == ()
    due = ("m",) if state in IN_TRANSITION else ()
    assert orphans.due(models, owners, now=100.0 + GRACE_S) == due


def test_nothing_of_an_earlier_process_has_a_grace() -> None:
    assert Orphans().due((model(),), Owners(), now=7.0, grace_s=0.0) == ("m",)


def test_a_model_with_an_owner_is_no_orphan() -> None:
    orphans, owners = Orphans(), Owners()
    orphans.due((model(),), owners, now=0.0)
    with owners.of("m"):
        assert orphans.due((model(),), owners, now=1e6) == ()


def test_another_transition_has_a_grace_of_its_own() -> None:
    orphans, owners = Orphans(), Owners()
    orphans.due((model(since=1.0),), owners, now=0.0)
    assert orphans.due((model(since=2.0),), owners, now=GRACE_S) == ()
    assert orphans.due((model(since=2.0),), owners, now=2 * GRACE_S) == ("m",)


def test_attempts_come_after_growing_pauses() -> None:
    orphans, owners, models = Orphans(), Owners(), (model(),)
    now, tried = 0.0, []
    while now < 300.0:
        if orphans.due(models, owners, now=now):
            tried.append(now)
            assert orphans.attempts("m") == len(tried)
        now += 1.0
    pauses = [after - before for before, after in itertools.pairwise(tried)]
    assert pauses[:4] == [RETRY_S, 2 * RETRY_S, 4 * RETRY_S, 8 * RETRY_S]
    assert set(pauses[4:]) == {RETRY_LIMIT_S}


def test_the_attempt_in_progress_is_not_forgotten() -> None:
    orphans, owners, models = Orphans(), Owners(), (model(),)
    orphans.due(models, owners, now=0.0, grace_s=0.0)
    with owners.of("m"):
        orphans.due(models, owners, now=1.0)
    assert orphans.attempts("m") == 1
    assert orphans.due(models, owners, now=1.0) == (), "its pause has not ended"


def test_the_owners_of_many_models_leave_nothing_behind() -> None:
    owners = Owners()
    with owners.of("a", "b"), owners.of("b", "c"):
        pass
    assert not owners._tasks
    with owners.of("a", "a"):
        assert "a" in owners
    assert "a" not in owners


async def test_a_run_is_at_its_models_from_its_first_to_its_last_step() -> None:
    owners, gate = Owners(), asyncio.Event()
    report = Report(stage="load", outcome="ready")

    class Run:
        def __await__(self) -> Generator[Any, None, Report]:
            yield from gate.wait().__await__()
            assert "a" in owners and "b" in owners
            return report

        def __str__(self) -> str:
            return "load a"

    run = owners.during(Run(), "a", "b")
    assert str(run) == "load a" and "a" not in owners, "it has not begun"
    task = asyncio.ensure_future(run)
    await asyncio.sleep(0)
    assert "a" in owners and "b" in owners
    gate.set()
    assert await task == report
    assert "a" not in owners and "b" not in owners


def test_each_orphan_has_pauses_of_its_own() -> None:
    orphans, owners = Orphans(), Owners()
    first, second = model(name="first"), model(name="second")
    assert orphans.due((first,), owners, now=0.0, grace_s=0.0) == ("first",)
    assert orphans.due((first, second), owners, now=4.0, grace_s=0.0) == ("second",)
    assert orphans.due((second, first), owners, now=5.0) == ("first",)
    assert (orphans.attempts("first"), orphans.attempts("second")) == (2, 1)
    assert orphans.attempts("never") == 0
    assert orphans.due((second,), owners, now=6.0) == ()
    assert orphans.attempts("first") == 0, "it is in transition no more"


def test_other_states_can_be_watched() -> None:
    orphans = Orphans(NEW)
    models = tuple(model(state, name=state.value) for state in ModelState)
    due = orphans.due(models, Owners(), now=0.0, grace_s=0.0)
    assert sorted(due) == ["analyzed", "ingested"]
