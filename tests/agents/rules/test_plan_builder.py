from __future__ import annotations

from modelium.lifecycle import ModelState
from modelium.models import (
    Priority,
    RuntimeName,
    RuntimeStatus,
    Traffic,
    Trigger,
    Unload,
)
from tests.agents.rules.asking import ask
from tests.fakes.fleets import fleet, loaded, model, policy


def test_an_evicted_model_sleeps_where_its_runtime_can() -> None:
    able = (RuntimeStatus(name=RuntimeName.VLLM, enabled=True, healthy=True, can_sleep=True),)
    world = fleet(model("a", 60), loaded("old", "n/g0", gib=60), gpus=1, runtimes=able)
    (first, _) = ask(world, Trigger.DEMAND, "a").actions
    assert isinstance(first, Unload)
    assert first.sleep


def test_flow_3_a_model_evicted_before_its_first_request_is_requeued() -> None:
    early = loaded("experiment-1", "n/g0", gib=60, traffic=Traffic())
    used = loaded("experiment-2", "n/g1", gib=60)
    important = [
        model(f"production-{n}", 60, state=ModelState.QUEUED, priority=Priority.HIGH)
        for n in (1, 2)
    ]
    by = policy(auto_unload_after_s=100_000.0)  # none of them idled out
    plan = ask(fleet(early, used, *important), Trigger.SWEEP, by=by)
    leaving = {a.model: a.requeue for a in plan.actions if isinstance(a, Unload)}
    assert leaving == {"experiment-1": True, "experiment-2": False}
