from __future__ import annotations

from modelium.lifecycle import ModelState
from modelium.models import (
    Load,
    RuntimeName,
    RuntimeStatus,
    Trigger,
)
from tests.agents.rules.asking import ask, shape
from tests.fakes.fleets import fleet, loaded, model


def test_the_next_runtime_is_used_while_the_first_does_not_answer() -> None:
    world = fleet(
        model("a"),
        runtimes=(
            RuntimeStatus(name=RuntimeName.VLLM, enabled=True, healthy=False),
            RuntimeStatus(name=RuntimeName.RAY_SERVE, enabled=True, healthy=True),
        ),
    )
    (load,) = ask(world, Trigger.INGEST, "a").actions
    assert isinstance(load, Load)
    assert load.runtime is RuntimeName.RAY_SERVE


def test_a_sleeping_model_wakes_on_its_own_device_with_evictions_there() -> None:
    world = fleet(
        loaded("a", "n/g1", gib=60, state=ModelState.SLEEPING),
        loaded("x", "n/g1", gib=60),
        gpus=2,
    )
    plan = ask(world, Trigger.DEMAND, "a")
    assert shape(plan) == [("unload", "x"), ("load", "a")]
    load = plan.actions[1]
    assert isinstance(load, Load)
    assert load.devices == ("n/g1",)
