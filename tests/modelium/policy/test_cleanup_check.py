"""Unloads that no plan names never end what serves."""

from __future__ import annotations

import pytest

from modelium.lifecycle import ModelState
from modelium.models import Model, RuntimeName
from modelium.policy import Policy
from modelium.policy.cleanup_check import Cause, Cleanup, validate_cleanup
from tests.fakes.fleets import loaded, model, policy

S, V, RAY = ModelState, RuntimeName.VLLM, RuntimeName.RAY_SERVE


def broken(
    cause: Cause, *models: Model, by: Policy | None = None, runtime: RuntimeName = V
) -> list[tuple[str, str, str]]:
    cleanup = Cleanup(runtime=runtime, instance="m", cause=cause)
    found = validate_cleanup(cleanup, models, by or policy())
    return [(v.rule, v.subject, v.message) for v in found]


def at(state: ModelState, name: str = "m") -> Model:
    return loaded(name, "n/g0").model_copy(update={"state": state})


@pytest.mark.parametrize("state", [S.LOADING, S.DRAINING, S.UNLOADING])
def test_an_unload_that_has_begun_goes_on(state: ModelState) -> None:
    assert broken("begun", at(state), at(S.READY, "other")) == []


@pytest.mark.parametrize("state", [S.READY, S.SLEEPING, S.FAILED])
def test_what_is_loaded_is_not_cleaned_up(state: ModelState) -> None:
    (found,) = broken("begun", at(state))
    assert found == (
        "serving",
        "m",
        f"m is {state.value} in vllm; only an unload that was decided, or a load that has not "
        "ended, is cleaned up",
    )


def test_what_no_model_stands_on_may_go_whatever_began_it() -> None:
    for cause in ("begun", "leftover"):
        assert broken(cause, at(S.READY, "other"), model("m")) == []  # type: ignore[arg-type]
        elsewhere = at(S.READY)
        assert broken(cause, elsewhere, runtime=RAY) == []  # type: ignore[arg-type]


def test_a_leftover_is_what_no_model_of_the_store_is_loaded_in() -> None:
    assert broken("leftover", at(S.LOADING)) == [("in-use", "m", "m is being loaded")]
    assert broken("leftover", at(S.READY)) == [("in-use", "m", "m is ready")]


def test_a_leftover_stays_while_modelium_or_its_runtime_is_switched_off() -> None:
    assert broken("leftover", by=policy(enabled=False)) == [
        ("disabled", "m", "orchestration.enabled is false: nothing is loaded or unloaded")
    ]
    assert broken("leftover", by=policy(runtimes={})) == [
        ("runtime-disabled", "m", "vllm is not enabled: nothing is unloaded from it")
    ]
    off = policy(enabled=False, runtimes={})
    assert broken("begun", by=off) == [], "what has begun ends"
    assert broken("lost", at(S.READY), by=off) == [], "what is dead serves nobody"


def test_only_the_engine_of_a_ready_model_can_be_lost() -> None:
    assert broken("lost", at(S.READY)) == []
    said = "m in vllm is no ready model’s engine any more"
    for models in ((), (at(S.DRAINING),), (at(S.READY, "other"),)):
        assert broken("lost", *models) == [("not-lost", "m", said)]
